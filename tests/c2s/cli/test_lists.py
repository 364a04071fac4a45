"""Options that hold several values."""

import pytest

from c2s.cli.lists import listed, numbers
from c2s_cache.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0", [0.0]),
        ("0,0.02, .05", [0.0, 0.02, 0.05]),
        ("0:0.1:0.02", [0.0, 0.02, 0.04, 0.06, 0.08, 0.1]),
        ("0:0.1:0.03", [0.0, 0.03, 0.06, 0.09]),
        ("0.1:0:-0.05", [0.1, 0.05, 0.0]),
        ("0.1:0.1:1", [0.1]),
        ("-0.1,-0.1", [-0.1]),
    ],
)
def test_lists_and_ranges(text, values):
    assert numbers(text, "--x") == values


@pytest.mark.parametrize(
    "text",
    ["", "a", "0,,1", "0:1", "0:1:0", "0:1:-1", "0:1:1e-9", "0:1:2:3", "0:1,2:1", "nan", "inf"],
)
def test_anything_else_is_one_sentence(text):
    with pytest.raises(ConfigError, match=r"^--x .*: expected .*\.$"):
        numbers(text, "--x")


def test_no_option_is_no_value():
    assert listed(None, "--x", int) == []
