"""Whatever is written, of any type and any length, both readers give back bit by bit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays, from_dtype
from tiny_cache import tiny_manifest

from c2s_cache import Cache
from c2s_cache.schema import array_specs, ragged_ranges
from c2s_cache.writer import BlockWriter, create_cache

VIEWS = 2


@pytest.fixture(scope="module", params=["float16", "int8"])
def path(request, tmp_path_factory):
    """An empty cache of three blocks, the last one shorter, with a dense tier."""
    out = tmp_path_factory.mktemp("cache") / "tiny.zarr"
    create_cache(out, tiny_manifest(views=VIEWS, dense={"tier": request.param}))
    return out


def bits(values: np.ndarray) -> bytes:
    return np.ascontiguousarray(values).tobytes()


@st.composite
def stages(draw, manifest):
    """A stage, a block, and any values of its arrays: zeros, extremes and NaN among them."""
    stage = draw(st.sampled_from([s.name for s in manifest.stages if not s.once]))
    block = draw(st.integers(0, manifest.blocks - 1))
    rows = len(manifest.block_range(block))
    specs = [s for s in array_specs(manifest) if s.stage == stage]
    data, lengths = {}, {}
    ends = {path: array.end for path, array in manifest.arrays.items() if array.end is not None}
    for end in ends.values():
        count = rows * VIEWS if end == "regions/end" else rows
        if end not in lengths:
            lengths[end] = draw(st.lists(st.integers(0, 70), min_size=count, max_size=count))
    for spec in specs:
        if spec.path in lengths:
            stops = np.cumsum(lengths[spec.path], dtype=spec.dtype)
            data[spec.path] = stops.reshape(rows, *spec.shape[1:])
            continue
        length = sum(lengths[ends[spec.path]]) if spec.ragged else rows
        shape = (length, *(spec.shape[2:] if spec.ragged else spec.shape[1:]))
        values = from_dtype(np.dtype(spec.dtype))
        data[spec.path] = draw(arrays(spec.dtype, shape, elements=values, fill=values))
    return stage, block, data


@pytest.mark.slow
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(data=st.data())
def test_both_readers_give_back_what_was_written(path, data):
    writer = BlockWriter(path)
    stage, block, written = data.draw(stages(writer.manifest))
    receipt = writer.write(stage, block, written)
    assert writer.missing(block).count(stage) == 0
    cache = Cache(path)
    for read in (cache.read(block, written), cache.read(block, written, fast=True)):
        assert {p: bits(v) for p, v in read.items()} == {p: bits(v) for p, v in written.items()}
        assert all(read[p].dtype == written[p].dtype for p in written)
    named = {path / name for name in receipt.files}
    of_block = {
        f
        for p in written
        for f in (path / p / "c").rglob("*")
        if f.is_file() and f.relative_to(path / p / "c").parts[0] == str(block)
    }
    assert named == of_block  # a block owns whole files, and its receipt names all of them


def test_nan_and_minus_zero_are_values_like_others(path):
    writer = BlockWriter(path)
    shape = (len(writer.manifest.block_range(0)), VIEWS, writer.manifest.teacher.dim)
    for value in (np.nan, -0.0, 0.0, np.inf):
        written = np.full(shape, value, np.float16)
        writer.write("global_cls", 0, {"global_cls/cls": written})
        read = Cache(path).read(0, ["global_cls/cls"])["global_cls/cls"]
        assert bits(read) == bits(written)


def test_reading_leaves_the_codecs_of_the_process_alone(path, monkeypatch):
    """They are those of every thread; a block that is written meanwhile would get other bytes."""
    manifest = Cache(path).manifest
    sides = manifest.axes["grid_y"], manifest.axes["grid_x"]
    grid = np.zeros((len(manifest.block_range(0)), VIEWS, *sides), np.uint8)
    BlockWriter(path).write("masks", 0, {"masks/grid": grid})
    monkeypatch.setattr(zarr.config, "set", None)
    for fast in (False, True):
        assert Cache(path).read(0, ["masks/grid"], fast).keys() >= {"masks/grid"}


@given(lengths=st.lists(st.integers(0, 2**33), max_size=20), views=st.integers(1, 3))
def test_ranges_of_a_ragged_column_follow_from_its_ends(lengths, views):
    lengths = lengths[: len(lengths) // views * views]
    end = np.cumsum(lengths, dtype=np.uint64).reshape(-1, views)
    found = list(ragged_ranges(end))
    assert [b - a for a, b in found] == lengths
    assert all(a == b for (_, a), (b, _) in itertools.pairwise(found))
    assert not found or found[0][0] == 0


@given(rows=st.integers(1, 500), block_rows=st.integers(1, 600))
def test_blocks_partition_the_rows(rows, block_rows):
    manifest = tiny_manifest(rows, block_rows, dense={"tier": "int8"})
    ranges = [manifest.block_range(b) for b in range(manifest.blocks)]
    assert list(itertools.chain.from_iterable(ranges)) == list(range(rows))
    assert all(len(r) == block_rows for r in ranges[:-1])
    assert 0 < len(ranges[-1]) <= block_rows
    for spec in array_specs(manifest):
        # The shard of a block holds all its rows and no others.
        if spec.by_row:
            assert {r.start // spec.shards[0] for r in ranges} == set(range(manifest.blocks))
            assert all((r.stop - 1) // spec.shards[0] == r.start // spec.shards[0] for r in ranges)
        if spec.by_row or spec.ragged:
            assert all(
                shard % chunk == 0 for shard, chunk in zip(spec.shards, spec.chunks, strict=True)
            )
