"""A run never trains on what its cache did not hold when it began: damaged, exchanged, missing or changed files."""

from __future__ import annotations

import shutil

import fsspec
import numpy as np
import pytest
import tiny_runs
import torch
from safetensors.torch import load_file
from tiny_cache import grow_cache, tiny_manifest, write_cache

import c2s.training.stream as stream_module
from c2s.methods.clip_to_seg.examples import PATHS
from c2s.runs.checkpoint import saved_step
from c2s.training import run
from c2s_cache import Cache, CacheError, DamagedError
from c2s_cache.manifest import USABLE, Manifest
from c2s_cache.writer import BlockWriter, create_cache

ENDS = {path: array.end for path, array in tiny_manifest().arrays.items() if array.end}
USED = sorted({*PATHS, USABLE, *(ENDS[path] for path in PATHS if path in ENDS)})


def train(cache, tmp_path, **more):
    options = {
        "iterations": 12,
        "checkpoint_every": 1,
        "shuffle_blocks": 1,
        "view_cache_gib": 0.0,
        "name": "run",
    }
    options |= {"student": "shapes-net", "method": {"heads": 4}}
    return run.train(tiny_runs.settings(cache, tmp_path / "runs", **(options | more)))


def files(cache, array, block="*"):
    return sorted(f for f in (cache / array / "c").glob(f"{block}/**/*") if f.is_file()) or sorted(
        f for f in (cache / array / "c").glob(str(block)) if f.is_file()
    )


@pytest.fixture
def cache(tmp_path):
    return write_cache(tmp_path / "tiny.zarr", rows=24, block_rows=4)


def after(views, monkeypatch, act):
    """Do something to the cache once so many views were loaded; the run goes on."""
    load, count = stream_module.cut_view, []

    def counting(*args):
        count.append(1)
        if len(count) == views:
            act()
        return load(*args)

    monkeypatch.setattr(stream_module, "cut_view", counting)


@pytest.mark.slow
@pytest.mark.parametrize("array", [*USED, "text/embeddings"])
def test_no_run_trains_on_a_flipped_bit(cache, tmp_path, array):
    file = files(cache, array)[-1]
    data = bytearray(file.read_bytes())
    bit = int(np.random.default_rng(5).integers(8 * len(data)))
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)
    with pytest.raises(DamagedError, match=f"{array}/c/.* differs from its receipt"):
        train(cache, tmp_path)


@pytest.mark.slow
def test_no_run_trains_on_exchanged_files(cache, tmp_path):
    """Of equal size; tokens do not compress."""
    first, second = files(cache, "global_cls/cls")[:2]
    assert first.stat().st_size == second.stat().st_size
    a, b = first.read_bytes(), second.read_bytes()
    first.write_bytes(b)
    second.write_bytes(a)
    with pytest.raises(DamagedError, match=r"global_cls/cls/c/.* differs from its receipt"):
        train(cache, tmp_path)


def weights(path):
    return load_file(path / "checkpoint" / "student.safetensors")


@pytest.mark.slow
def test_a_file_that_vanishes_under_a_run_ends_it_and_its_checkpoint_goes_on(
    cache, tmp_path, monkeypatch
):
    whole = weights(train(cache, tmp_path / "whole"))
    kept = shutil.copytree(cache / "masks/grid/c", tmp_path / "kept")
    with monkeypatch.context() as patch:
        after(14, patch, lambda: shutil.rmtree(cache / "masks/grid/c"))
        with pytest.raises(DamagedError, match=r"masks/grid/c/\d/0/0/0 is missing") as caught:
            train(cache, tmp_path)
    path = tmp_path / "runs" / "run"
    assert f"Continue with: c2s train --resume {path}" in str(caught.value)
    assert 0 < saved_step(path) < 12
    shutil.copytree(kept, cache / "masks/grid/c")
    again = weights(run.resume(path))
    assert again.keys() == whole.keys()
    assert all(torch.equal(again[name], whole[name]) for name in whole)


@pytest.mark.slow
@pytest.mark.parametrize("finished", [False, True])
def test_a_cache_that_is_updated_under_a_run_ends_it(cache, tmp_path, monkeypatch, finished):
    """While the update is under way, and once it is done."""

    def update():
        reader = Cache(cache)
        grids = [reader.read(b, ["masks/grid"]) for b in range(reader.blocks)]
        create_cache(cache, changed(reader.manifest), update=True)
        for block, arrays in enumerate(grids if finished else []):
            BlockWriter(cache).write("masks", block, arrays)

    after(14, monkeypatch, update)
    with pytest.raises(
        DamagedError, match=r"has changed since it was opened|differs from"
    ) as caught:
        train(cache, tmp_path)
    assert "Continue with: c2s train --resume" in str(caught.value)


def changed(manifest):
    """The same with other masks."""
    facts = manifest.model_dump()
    for stage in facts["stages"]:
        if stage["name"] == "masks":
            stage["settings"] = {"threshold": 0.5}
    return Manifest.model_validate(facts)


@pytest.mark.slow
def test_a_loader_process_notices_too(cache, tmp_path):
    file = files(cache, "regions/cls")[-1]
    file.write_bytes(file.read_bytes()[::-1])
    with pytest.raises(DamagedError, match="differs from its receipt"):
        train(cache, tmp_path, workers=2)


@pytest.fixture
def one_block(tmp_path):
    return write_cache(tmp_path / "one.zarr", rows=8, block_rows=8)


def updated(cache):
    create_cache(cache, changed(Cache(cache).manifest), update=True)


def updated_to_the_end(cache):
    grids = Cache(cache).read(0, ["masks/grid"])
    updated(cache)
    BlockWriter(cache).write("masks", 0, grids)


def replaced(cache):
    shutil.rmtree(cache)
    write_cache(cache, rows=12, block_rows=8)


HARMS = {
    "updated": updated,
    "updated to the end": updated_to_the_end,
    "files removed": lambda cache: shutil.rmtree(cache / "masks/grid/c"),
    "a file cut short": lambda cache: files(cache, "images/data")[0].write_bytes(b""),
    "a receipt removed": lambda cache: (cache / "receipts/regions/000000.json").unlink(),
    "receipts removed": lambda cache: shutil.rmtree(cache / "receipts"),
    "replaced": replaced,
    "removed": shutil.rmtree,
}


@pytest.mark.slow
@pytest.mark.parametrize("keeps", [0.0, 1.0], ids=["blocks held", "views held"])
@pytest.mark.parametrize("harm", HARMS)
def test_a_run_that_holds_all_it_needs_notices_at_its_next_checkpoint(
    one_block, tmp_path, monkeypatch, harm, keeps
):
    """It reads nothing any more."""
    load, count = run.DistillationModule.training_step, []

    def counting(*args):
        count.append(1)
        if len(count) == 5:
            HARMS[harm](one_block)
        return load(*args)

    monkeypatch.setattr(run.DistillationModule, "training_step", counting)
    with pytest.raises(CacheError) as caught:
        train(one_block, tmp_path, checkpoint_every=3, view_cache_gib=keeps, log_every=1)
    path = tmp_path / "runs" / "run"
    assert saved_step(path) == 6
    assert "The checkpoint of iteration 6 is kept. Continue with: c2s train" in str(caught.value)
    assert str(caught.value).startswith((str(one_block), "block 0 of"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("memory", [False, True], ids=["disk", "store"])
def test_growth_and_a_store_are_no_change(one_block, tmp_path, memory):
    cache = one_block
    if memory:
        cache = "memory://bucket/one.zarr"
        fsspec.core.url_to_fs(cache)[0].put(str(one_block), "/bucket/one.zarr", recursive=True)
    opened = Cache(cache)
    opened.require_unchanged(range(opened.blocks), PATHS)
    if not memory:
        grow_cache(one_block, 3)
        opened.require_unchanged([0], PATHS)
