"""Who may write into a cache: one builder, and workers for as long as it is theirs."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from tiny_cache import write_cache

from c2s_cache import Cache, CacheError, lock
from c2s_cache.lock import build_lock, writing
from c2s_cache.writer import BlockWriter


def test_the_lock_is_exclusive_and_released(tmp_path):
    target = tmp_path / "a.zarr"
    held = pytest.raises(CacheError, match="another process")
    with build_lock(target) as first, held, build_lock(target):
        pass
    with build_lock(target) as second:
        assert second != first


def test_a_worker_of_the_past_may_not_write(tmp_path):
    path = write_cache(tmp_path / "a.zarr")
    grid = Cache(path).read(0, ["masks/grid"])
    with build_lock(path) as token:
        late = BlockWriter(path, token)
        late.write("masks", 0, grid)
    with build_lock(path) as token:
        with pytest.raises(CacheError, match="another build has taken over"):
            late.write("masks", 0, {"masks/grid": grid["masks/grid"] + np.uint8(1)})
        BlockWriter(path, token).write("masks", 0, grid)
    np.testing.assert_array_equal(
        Cache(path).read(0, ["masks/grid"])["masks/grid"], grid["masks/grid"]
    )


def test_a_new_owner_waits_for_what_is_being_written(tmp_path, monkeypatch):
    path = tmp_path / "a.zarr"
    order = []
    with build_lock(path) as token:
        pass

    def build():
        with build_lock(path):
            order.append("owner")

    with writing(path, token):
        builder = threading.Thread(target=build)
        builder.start()
        builder.join(0.3)
        order.append("written")
    builder.join()
    assert order == ["written", "owner"]
    monkeypatch.setattr(lock, "PATIENCE", 0.1)
    with build_lock(path) as token:
        pass
    stuck = pytest.raises(CacheError, match="an earlier build is still writing")
    with writing(path, token), stuck, build_lock(path):
        pass
