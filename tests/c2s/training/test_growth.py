"""A cache that grows under a run, or after it: the run is of the rows that there were when it began."""

from __future__ import annotations

import shutil

import fsspec
import numpy as np
import pytest
import tiny_runs
import torch
from safetensors.torch import load_file
from tiny_cache import PATHS, grow_cache, write_cache

import c2s.training.stream as stream_module
from c2s.runs.checkpoint import RunError
from c2s.runs.folder import read_config
from c2s.training import run
from c2s.training.stream import block_sizes
from c2s_cache import Cache, CacheError, open_cache

STEPS = 8


def settings(cache, runs, **more):
    options = {"iterations": STEPS, "checkpoint_every": 1, "shuffle_blocks": 1, "name": "run"}
    options |= {"student": "shapes-net", "method": {"heads": 4}, "view_cache_gib": 0.0}
    return tiny_runs.settings(cache, runs, **(options | more))


def same(first, second):
    a, b = (load_file(path / "checkpoint/student.safetensors") for path in (first, second))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def cache(tmp_path):
    return write_cache(tmp_path / "tiny.zarr", rows=10, views=2)


@pytest.fixture
def whole(cache, tmp_path):
    """A run on the cache as it is."""
    return run.train(settings(cache, tmp_path / "whole"))


@pytest.mark.slow
def test_old_rows_are_what_they_were(cache):
    """Every value of every view, in a cache that grew by a part, and another."""
    before = open_cache(cache)
    blocks = [before.read_block(number, PATHS) for number in range(before.blocks)]
    sizes = block_sizes(before)
    grow_cache(grow_cache(cache, 5), 3, seed=2)
    after = open_cache(cache)
    assert block_sizes(after) == (*sizes, 4, 1, 3)
    assert block_sizes(open_cache(cache, parts=1)) == sizes
    again = [after.read_block(number, PATHS) for number in range(before.blocks)]
    for old, new in zip(blocks, again, strict=True):
        assert old.rows.tolist() == new.rows.tolist()
        for path, values in old.arrays.items():
            np.testing.assert_array_equal(new.arrays[path], values, path)
    rows = [row for block in range(after.blocks) for row in after.read_block(block, []).rows]
    assert np.flatnonzero(after.column("rows/usable")).tolist() == rows
    first = open_cache(cache, parts=1)
    np.testing.assert_array_equal(first.column("views/box"), before.column("views/box"))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_goes_on_while_its_cache_grows(cache, whole, tmp_path, monkeypatch, workers):
    """Also in processes that open the cache when it has grown."""
    load, count = stream_module.BatchStream.__iter__, []

    def growing(stream):
        count.append(1)
        grow_cache(cache, 6)
        return load(stream)

    monkeypatch.setattr(stream_module.BatchStream, "__iter__", growing)
    begun = stream_module.loader

    def loader(stream, *args):
        if workers:
            grow_cache(cache, 6)
        return begun(stream, *args)

    monkeypatch.setattr("c2s.training.datamodule.loader", loader)
    path = run.train(settings(cache, tmp_path / "runs", workers=workers))
    assert len(Cache(cache).manifest.parts) == 2
    assert count == ([] if workers else [1])
    assert same(path, whole)


@pytest.mark.slow
def test_a_run_goes_on_when_its_cache_has_grown(cache, whole, tmp_path):
    path = run.train(settings(cache, tmp_path / "runs", iterations=3))
    moved = grow_cache(shutil.copytree(cache, tmp_path / "moved.zarr"), 6)
    assert read_config(path).parts == 1
    with pytest.raises(RunError, match="parts 1 -> 2"):
        run.resume(path, iterations=STEPS, cache=moved, parts=2)
    run.resume(path, iterations=STEPS, cache=moved)
    assert read_config(path).parts == 1
    again = run.train(settings(moved, tmp_path / "again", parts=1))
    assert same(again, whole)
    more = run.train(settings(moved, tmp_path / "more"))
    assert read_config(more).parts == 2
    assert not same(more, whole)
    with pytest.raises(CacheError, match="has 2 parts, not 3"):
        run.train(settings(moved, tmp_path / "none", parts=3))


@pytest.mark.slow
def test_a_cache_that_grew_in_an_object_store(cache, whole, tmp_path):
    grow_cache(cache, 6)
    files, root = fsspec.core.url_to_fs("memory://bucket/grown.zarr")
    files.put(str(cache), root, recursive=True)
    try:
        path = run.train(settings("memory://bucket/grown.zarr", tmp_path / "runs", parts=1))
    finally:
        files.rm(root, recursive=True)
    assert same(path, whole)
