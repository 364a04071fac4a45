"""Small members of every family, by the names of `tiny_towers`."""

from __future__ import annotations

import pytest
import tiny_towers


@pytest.fixture(scope="session", autouse=True)
def tiny_families(tmp_path_factory):
    """Their names, known to open_clip in this process."""
    return tiny_towers.register(tmp_path_factory.mktemp("families"))
