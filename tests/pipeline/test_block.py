"""A block's bytes do not depend on how many lanes compute it, nor on which one is faster."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from small_builds import NOTHING, no_teacher, request

import c2s_pipeline.teachers.image_teacher as teacher_module
from c2s_cache import Cache, DataError
from c2s_pipeline.build.block import BlockComputer
from c2s_pipeline.build.request import make_manifest
from c2s_pipeline.build.rows import new_rows
from c2s_pipeline.lanes import start_lanes
from c2s_pipeline.teachers.base import TeacherSpec
from c2s_pipeline.teachers.registry import load_teacher

ROWS = 20
"""Two rows a batch, so ten batches."""


class Uneven:
    """A data set whose images come at different speeds."""

    def __init__(self, source) -> None:
        self.source = source

    def __getattr__(self, name):
        return getattr(self.source, name)

    def encoded(self, image_id):
        time.sleep(0.02 * (int(image_id) % 3))
        return self.source.encoded(image_id)


def given(teacher):
    return teacher


@pytest.mark.slow
def test_lanes_change_nothing(tiny_teacher, coco_tree, monkeypatch):
    from c2s.datasets import FolderSplit
    from c2s.datasets.coco_stuff import DESCRIPTOR

    source = FolderSplit(DESCRIPTOR, coco_tree(count=ROWS), "train")
    wanted = request(tiny_teacher, block_rows=ROWS, views=2, dense="int8", batch_size=5)
    spec = TeacherSpec(tiny_teacher, None)
    teacher = load_teacher(spec)
    monkeypatch.setattr(teacher_module, "LARGEST", 3 * 4 * (4 * 64) * 17)
    rows = new_rows(source, wanted)
    (order,) = rows.ids
    manifest = make_manifest(source, wanted, rows.parts, teacher.info())
    missing = [s.name for s in manifest.stages if not s.once]
    results = []
    for lanes in (None, 1, 4):
        pool = lanes and ThreadPoolExecutor(lanes, initializer=torch.set_num_threads, initargs=(1,))
        done: list[int] = []
        teacher = load_teacher(spec, pool=lanes and start_lanes(lanes))
        computer = BlockComputer(manifest, Uneven(source), partial(given, teacher), lanes=pool)
        results.append(computer.compute(order, 0, missing, NOTHING, done.append))
        assert done == [2] * 10
    first = results[0]
    assert first.passes.total() == ROWS * 2 + len(first.stages["regions"]["regions/id"])
    assert first.notes["dense"]["error"]["tokens"] == ROWS * 2 * 16
    for other in results[1:]:
        assert (other.notes, other.passes) == (first.notes, first.passes)
        for stage, arrays in first.stages.items():
            for path, values in arrays.items():
                np.testing.assert_array_equal(other.stages[stage][path], values, path)


def test_a_lane_that_fails_fails_the_block(built, tiny_teacher):
    class Broken(Uneven):
        def labels(self, image_id):
            raise DataError("no label map")

    manifest, source = Cache(built[0]).manifest, Broken(built[1])
    with ThreadPoolExecutor(2) as pool, pytest.raises(DataError, match="no label map"):
        BlockComputer(manifest, source, no_teacher, lanes=pool).compute(
            Cache(built[0]).ids(0), 0, ["images", "labels"], NOTHING
        )
