"""Small complete caches for the trainer's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_cache import write_cache


@pytest.fixture(scope="session")
def tiny_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of a complete cache of 11 scenes (10 usable) in blocks of 4, one view each."""
    return write_cache(tmp_path_factory.mktemp("cache") / "tiny.zarr")


@pytest.fixture(scope="session")
def tiny_views_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with three views per scene."""
    return write_cache(tmp_path_factory.mktemp("cache") / "views.zarr", views=3)
