"""A plan against the build that it foretells."""

import dataclasses
import math
import shutil

import numpy as np
import psutil
import pytest
from small_builds import made

from c2s.datasets import FolderSplit, load_dataset
from c2s.datasets.coco_stuff import DESCRIPTOR
from c2s.shapes.defaults import BUILD
from c2s_cache import Cache
from c2s_cache.schema import ArraySpec
from c2s_pipeline.build.builder import build
from c2s_pipeline.build.disk import FILE_BLOCK, MARGIN, TriedArray, allocated
from c2s_pipeline.build.plan import COPIES, DoesNotFit, Plan, StagePlan, plan_build
from c2s_pipeline.build.request import build_request


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    from conftest import make_coco_tree

    root = make_coco_tree(tmp_path_factory.mktemp("tree") / "coco_stuff164k", count=6)
    return FolderSplit(DESCRIPTOR, root, "train")


def request(teacher, **changes):
    settings = {"teacher": teacher, "block_rows": 6, "batch_size": 4, "view_size": 32}
    return made(**(settings | {"masks": {"windows": (2, 3)}} | changes))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{}, {"dense": "int8"}, {"dense_size": 64}, {"views": 2, "dense": "float16"}]
)
def test_a_plan_from_all_images_is_the_build(source, tiny_teacher, scheduler, tmp_path, changes):
    wanted, steps = request(tiny_teacher, **changes), []
    plan = plan_build(source, wanted, 6, advance=steps.append)
    report = build(source, wanted, tmp_path / "c.zarr", scheduler=scheduler)
    cache = Cache(report.path)
    assert [s.stage for s in plan.stages] == list(cache.manifest.stage_names)
    assert sum(s.passes for s in plan.stages) == report.passes
    size = dict.fromkeys(cache.manifest.stage_names, 0)
    for (stage, block), receipt in cache.receipts.items():
        if stage in size:
            own = cache.path / f"receipts/{stage}/{block:06d}.json"
            files = [own.stat().st_size, *(f.size for f in receipt.files.values())]
            size[stage] += allocated(files)
    text = size.pop("text")  # compressed; the plan has what it is before that
    assert {s.stage: s.bytes for s in plan.stages if s.stage != "text"} == size
    assert text <= next(s.bytes for s in plan.stages if s.stage == "text")
    assert taken(cache.path) <= plan.bytes <= taken(cache.path) + 2 * FILE_BLOCK
    assert all(s.hours > 0 for s in plan.stages if s.passes)
    assert sum(steps) == 6


def taken(path):
    """Bytes on disk of all files of a cache."""
    return allocated(file.stat().st_size for file in path.rglob("*") if file.is_file())


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "block_rows"), [(0, 128), (1, 64), (2, 16), (3, 100)])
def test_a_cache_of_shapes_takes_no_more_than_planned_and_little_less(
    scheduler, tmp_path, seed, block_rows
):
    source = load_dataset("shapes").split("train")
    changes = {"seed": seed, "block_rows": block_rows, "limit": 256}
    wanted = build_request(**{**BUILD, **changes})
    plan = plan_build(source, wanted, 8)
    report = build(source, wanted, tmp_path / "c.zarr", scheduler=scheduler)
    real = taken(report.path)
    assert real <= plan.bytes <= 1.15 * real


def spec(zstd, shard=64):
    return ArraySpec("s", "s/a", ("block", "slot"), (4, 2**40), (1, shard), (1, 16), "int16", zstd)


def test_chunks_that_are_not_compressed_are_whole():
    """Rows of 10 slots in blocks of 4: three chunks of 16 slots of 2 bytes and a checksum, in a shard with an index."""
    tried = TriedArray.of(spec(None), [100], [np.zeros(10, np.int16)] * 2)
    one = allocated([3 * (16 * 2 + 4) + (16 * 4 + 4)])
    assert tried.projected(8, 4) == 2 * one
    assert tried.projected(9, 4) == 3 * one
    assert tried.projected(2, 4) == allocated([100])  # all of them
    ragged = TriedArray.of(spec(None, shard=16), [100], [np.zeros(10, np.int16)] * 2)
    assert ragged.projected(4, 4) == allocated([3 * 36 + 3 * 20]) + 2 * FILE_BLOCK  # three files


def test_what_rows_take_is_raised_by_their_spread():
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 2**15, n).astype(np.int16) for n in (400, 600)]
    tried = TriedArray.of(
        dataclasses.replace(spec(3), shards=(1, 2**20)), [2000 + 16 * 2**16 + 4], rows
    )
    a, b = tried.weights
    spread = MARGIN * abs(a - b) / 2**0.5 * (40 + 40**2 / 2) ** 0.5
    expected = 2000 * (40 * (a + b) / 2 + spread) / (a + b) + 16 * 2**16 + 4
    assert tried.projected(40, 40) == allocated([math.ceil(expected)])
    nothing = TriedArray.of(spec(3), [], [np.zeros(0, np.int16)] * 2)
    assert nothing.projected(100, 50) == 0


@pytest.mark.slow
def test_tiers_are_foretold_and_the_largest_that_fits_is_advised(
    source, tiny_teacher, tmp_path, monkeypatch
):
    wanted = request(tiny_teacher, dense="float16", dense_size=256, views=4)
    plan = plan_build(source, wanted, 3)
    sizes = plan.choices["dense.tier"]
    assert list(sizes) == ["float16", "int8", "none"]
    assert 0 == sizes["none"] < sizes["int8"] < sizes["float16"]
    usage = shutil.disk_usage(tmp_path)
    (dense,) = (s.bytes for s in plan.stages if s.stage == "dense")
    assert sizes["float16"] == dense
    rest = plan.bytes - dense
    for free, advice in (
        (plan.bytes - 1, "int8"),
        (rest + sizes["int8"], "int8"),
        (rest + sizes["int8"] - 1, "none"),
        (rest, "none"),
        (rest - 1, None),
    ):
        monkeypatch.setattr(shutil, "disk_usage", lambda p, free=free: usage._replace(free=free))
        with pytest.raises(DoesNotFit, match="The cache would take") as error:
            plan.check(tmp_path)
        expected = f"--set dense.tier={advice}" if advice else "Choose another --out"
        assert expected in error.value.hint
    monkeypatch.setattr(shutil, "disk_usage", lambda p: usage._replace(free=plan.bytes))
    plan.check(tmp_path)


@pytest.mark.slow
def test_a_plan_scales_with_the_images(source, tiny_teacher, monkeypatch):
    """From three of six images. A worker holds a block several times over, and the next one once."""
    monkeypatch.setattr("c2s_pipeline.build.plan.peak_memory", lambda: 1000)
    monkeypatch.setattr("c2s_pipeline.build.plan.lanes_of", lambda workers: 1)
    plan = plan_build(source, request(tiny_teacher, block_rows=3, batch_size=3), 3)
    assert (plan.images, plan.sampled) == (6, 3)
    assert next(s for s in plan.stages if s.stage == "global_cls").passes == 6
    whole = plan_build(source, request(tiny_teacher, batch_size=3), 6)
    assert whole.memory == 1000
    block = plan_build(source, request(tiny_teacher, batch_size=3), 3).memory - 1000
    pixels = sum(2 * source.labels(i).size for i in source.ids)  # label, and whether it is ignored
    files = sum(len(source.encoded(i)) for i in source.ids)
    assert 0.8 < block / (COPIES * (pixels + files) / 2) < 1.6
    assert plan.memory - 1000 == block // COPIES
    assert whole.bytes < plan.bytes < 2 * whole.bytes


@pytest.mark.slow
def test_a_plan_counts_the_pixels_of_every_lane(source, tiny_teacher, monkeypatch):
    """Two of six images are tried. Four lanes hold all six, two lanes four in batches of two, one lane two."""
    monkeypatch.setattr("c2s_pipeline.build.plan.peak_memory", lambda: 1000)
    monkeypatch.setattr("c2s_pipeline.build.plan.lanes_of", lambda workers: 4 // workers)
    monkeypatch.setattr("c2s_pipeline.build.plan.blocks_under_way", lambda manifest, lanes: 1)
    for workers, batch, rows in ((1, 4, 6), (2, 2, 4), (4, 2, 2)):
        wanted = request(tiny_teacher, block_rows=2, batch_size=batch, dense_size=64)
        plan = plan_build(source, wanted, 2, workers)
        passes = {s.stage: s.passes / 3 for s in plan.stages}
        held = (passes["global_cls"] + passes["regions"]) * 32**2 + passes["dense"] * 64**2
        assert plan.memory == 1000 + (rows - 2) * 2 * 3 * held // 2


def fitting(**changes):
    stages = (StagePlan("images", 1.0, 300, 0), StagePlan("dense", 3.0, 700, 5))
    return dataclasses.replace(Plan(10, 2, stages, 100, 0, 2), **changes)


def test_hours_are_shared_by_the_workers():
    assert fitting().hours == 2.0


def test_a_cache_larger_than_the_disk_is_refused(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    asked = []
    monkeypatch.setattr(shutil, "disk_usage", lambda p: asked.append(p) or usage._replace(free=999))
    with pytest.raises(DoesNotFit, match=r"would take .* GiB of it for dense, but .* free"):
        fitting().check(tmp_path / "not" / "there.zarr")
    assert asked == [tmp_path]
    monkeypatch.setattr(shutil, "disk_usage", lambda p: usage._replace(free=1000))
    fitting().check(tmp_path)


def test_workers_that_need_too_much_memory_are_refused(tmp_path):
    available = psutil.virtual_memory().available
    with pytest.raises(DoesNotFit, match="2 workers"):
        fitting(memory=available).check(tmp_path)
    fitting(memory=available // 8).check(tmp_path)
