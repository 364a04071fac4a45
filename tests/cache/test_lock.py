"""Who may write into a cache: one builder, and workers for as long as it is theirs."""

from __future__ import annotations

import errno
import fcntl
import math
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from small_builds import contents
from tiny_cache import write_cache

from c2s_cache import C2SError, Cache, CacheError, lock
from c2s_cache.lock import LOCK, OWNER, NoLocks, build_lock, locked, writing
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


def token_of_a_killed_builder(path):
    with build_lock(path) as token:
        pass
    path.mkdir(exist_ok=True)
    (path / OWNER).write_text(token)
    return token


def test_a_new_owner_waits_for_what_is_being_written(tmp_path, monkeypatch):
    path = tmp_path / "a.zarr"
    order = []
    token = token_of_a_killed_builder(path)

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
    token = token_of_a_killed_builder(path)
    stuck = pytest.raises(CacheError, match="an earlier build is still writing")
    with writing(path, token), stuck, build_lock(path):
        pass


@pytest.mark.slow
def test_no_lock_is_left_and_no_folder_that_it_made(tmp_path):
    path = tmp_path / "caches/new/a.zarr"
    with build_lock(path):
        assert {f.name for f in path.iterdir()} == {LOCK, OWNER}
    assert list(tmp_path.iterdir()) == []
    write_cache(path)
    before = contents(path)
    with build_lock(path):
        pass
    with pytest.raises(KeyError), build_lock(path):
        raise KeyError
    with build_lock(path), pytest.raises(CacheError), build_lock(path):
        pass
    assert contents(path) == before


@pytest.mark.parametrize("link", ["folder", "above", "chain", "dots"])
def test_a_cache_is_locked_by_whatever_path(tmp_path, monkeypatch, link):
    path = tmp_path / "real/a.zarr"
    path.mkdir(parents=True)
    (tmp_path / "folder").symlink_to(path)
    (tmp_path / "chain").symlink_to("folder")
    (tmp_path / "above").symlink_to("real")
    paths = {"above": "above/a.zarr", "dots": "real/../above/./a.zarr"}
    monkeypatch.chdir(tmp_path)
    other = Path(paths.get(link, link))
    with build_lock(path), pytest.raises(CacheError, match="another process"), build_lock(other):
        pass
    with build_lock(other), pytest.raises(CacheError, match="another process"), build_lock(path):
        pass


def test_a_lock_whose_file_was_removed_is_asked_for_again(tmp_path, monkeypatch):
    """Two holders of one name: the file that was opened may be gone by the time it is locked."""
    file, busy = tmp_path / "lock", C2SError("busy")
    opened, real = [], lock.flock

    def slow(handle, exclusive, patience):
        opened.append(handle)
        if len(opened) == 1:
            file.unlink()
        elif len(opened) == 2:
            file.unlink()
            file.touch()
        real(handle, exclusive, patience)

    monkeypatch.setattr(lock, "flock", slow)
    with locked(file, busy):
        assert len(opened) == 3
        with pytest.raises(C2SError, match="busy"), locked(file, busy):
            pass
        assert file.exists()
    assert not file.exists()


def test_many_threads_hold_it_one_after_the_other(tmp_path):
    file, inside, most = tmp_path / "lock", [0], [0]

    def work():
        for _ in range(60):
            with locked(file, C2SError("busy"), patience=math.inf):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert not file.exists()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_is_said_to_be_one(tmp_path, monkeypatch, number):
    def flock(handle, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with (
        pytest.raises(NoLocks, match="this file system has no file locks"),
        build_lock(tmp_path / "a.zarr"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "lock", C2SError("busy"), required=False):
        pass
    assert list(tmp_path.iterdir()) == []
