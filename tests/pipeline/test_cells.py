"""Cells of grids over a view: where they lie, how they are cut, and what the teacher says of them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from small_builds import request

from c2s_cache import Cache, open_cache
from c2s_cache.integrity import verify
from c2s_cache.views import crop_image
from c2s_pipeline.build.verify import content, spot_check
from c2s_pipeline.stages.cells import CellSettings, cell_boxes
from c2s_pipeline.stages.registry import known
from c2s_pipeline.teachers.base import TeacherSpec
from c2s_pipeline.teachers.registry import load_teacher

STAGES = (*(name for name, stage in known().items() if stage.default), "cells")


def test_cells_tile_the_view_grid_after_grid_in_rows():
    boxes = cell_boxes(np.array([6.0, 12, 18, 36]), False, (2, 3))
    assert boxes[:4].tolist() == [
        [6, 12, 12, 24],
        [12, 12, 18, 24],
        [6, 24, 12, 36],
        [12, 24, 18, 36],
    ]
    assert boxes[4:7].tolist() == [[6, 12, 10, 20], [10, 12, 14, 20], [14, 12, 18, 20]]
    assert boxes[-1].tolist() == [14, 28, 18, 36]


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 4]), st.booleans())
def test_cells_are_parts_of_the_view_as_it_is_seen(seed, scale, flip):
    """Resampled, a pixel away from the edges of a cell depends on that cell alone, and mirrors with it."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (72, 80, 3), dtype=np.uint8)
    side = scale * 16
    left, top = int(rng.integers(0, 80 - side + 1)), int(rng.integers(0, 72 - side + 1))
    box = np.array([left, top, left + side, top + side], np.float64)
    view = image[top : top + side, left : left + side]
    view = view[:, ::-1] if flip else view
    for n, cell in enumerate(cell_boxes(box, flip, (scale,))):
        row, column = divmod(n, scale)
        part = view[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
        want = np.asarray(Image.fromarray(part.copy()).resize((32, 32), Image.Resampling.BICUBIC))
        got = crop_image(image, cell, flip, 32)
        assert np.abs(got.astype(int) - want)[5:-5, 5:-5].max() <= 1


@pytest.mark.parametrize("scales", [(), (0,), (2, 2), (17,), (1.5,)])
def test_scales_that_make_no_grids_are_refused(scales):
    with pytest.raises(ValidationError):
        CellSettings(scales=scales)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["image", "view"])
def test_tokens_of_cells(built, tiny_teacher, scheduler_of_threads, tmp_path, source):
    """The one cell of scale 1 is the view, and another grid over it is what the teacher says of its parts."""
    from c2s_pipeline.build.builder import build

    out, folder = built
    copy = shutil.copytree(out, tmp_path / "copy.zarr")
    wanted = request(tiny_teacher, stages=STAGES, cells={"scales": (1, 2), "source": source})
    report = build(folder, wanted, copy, scheduler=scheduler_of_threads, update=True)
    assert (report.computed, report.passes) == ({"cells": 5}, 25)
    cache = open_cache(copy, ("cells",))
    assert verify(cache, content(cache)) == []
    teacher = load_teacher(TeacherSpec(tiny_teacher, None))
    found = spot_check(cache, teacher, [0, 3])
    assert (found.findings, "cells" in found.worst) == ((), True)
    cells, cls = (np.asarray(Cache(copy).column(p)) for p in ("cells/cls", "global_cls/cls"))
    assert cells.shape == (5, 1, 5, 32)
    np.testing.assert_allclose(cells[:, :, 0], cls, rtol=0, atol=2e-3 * np.abs(cls).max())
    assert np.abs(cells[:, :, 1:].astype(np.float32) - cls[:, :, None]).max() > 0.02


@pytest.mark.slow
def test_the_source_shows_more_than_the_view(built, tiny_teacher, scheduler_of_threads, tmp_path):
    from c2s_pipeline.build.builder import build

    out, folder = built
    found = []
    for source in ("image", "view"):
        copy = shutil.copytree(out, tmp_path / f"{source}.zarr")
        wanted = request(tiny_teacher, stages=STAGES, cells={"source": source})
        build(folder, wanted, copy, scheduler=scheduler_of_threads, update=True)
        found.append(np.asarray(Cache(copy).column("cells/cls"), np.float32))
    assert found[0].shape == (5, 1, 29, 32)
    assert np.abs(found[0] - found[1]).max() > 0
