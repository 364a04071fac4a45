"""Messages read as sentences, whatever their parts end with."""

from __future__ import annotations

import pytest

from c2s_cache.errors import C2SError, sentences


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (("It is gone.", "Make it: c2s demo"), "It is gone. Make it: c2s demo"),
        (("it is gone", "Make it."), "it is gone. Make it."),
        (
            ("Run c2s demo --quick", "Nothing was saved."),
            "Run c2s demo --quick. Nothing was saved.",
        ),
        (("Alone",), "Alone"),
    ],
)
def test_all_but_the_last_end_with_a_stop(parts, text):
    assert sentences(*parts) == text
    if len(parts) == 2:
        assert str(C2SError(*parts)) == text
