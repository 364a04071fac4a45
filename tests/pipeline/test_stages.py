"""A stage of one's own, in one file, does all that the others do."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pytest
from small_builds import contents, request

from c2s_cache import C2SError, Cache, CacheError, ConfigError, open_cache
from c2s_cache.integrity import verify
from c2s_pipeline.build.derive import derive
from c2s_pipeline.build.request import recorded_request, request_model
from c2s_pipeline.build.resources import Resources
from c2s_pipeline.build.verify import content, spot_check
from c2s_pipeline.stages.base import Stage
from c2s_pipeline.stages.registry import _named, closed, known, name_of
from c2s_pipeline.teachers.base import TeacherSpec
from c2s_pipeline.teachers.registry import load_teacher

FILE = '''
from c2s_cache import ArrayRecord
from c2s_cache.integrity import Finding
from c2s_pipeline.stages.base import CLS_FACTS, Likeness, Stage, StageSettings, cosine
from c2s_pipeline.stages.views import view_pixels


class TileSettings(StageSettings):
    scale: int = 2


class Tiles(Stage):
    """The embedding of each tile of a grid over the view."""

    name = "tiles"
    Settings = TileSettings
    needs = ("views",)
    facts = CLS_FACTS
    live = True
    inspected = ("tiles/cls",)

    def axes(self, outline):
        return {"tile": self.settings.scale**2}

    def arrays(self, outline):
        return {"tiles/cls": ArrayRecord(axes=("view", "tile", "channel"), dtype="float16")}

    def compute(self, batch):
        size, n = batch.manifest.teacher.image_size, self.settings.scale
        pixels = view_pixels(batch, size * n)
        tiles = [
            pixels[:, y * size : (y + 1) * size, x * size : (x + 1) * size]
            for y in range(n) for x in range(n)
        ]
        found = [batch.embed_images(tile) for tile in tiles]
        return {"tiles/cls": [list(view) for view in zip(*found)] and
                [__import__("numpy").stack(view) for view in zip(*found)]}

    def passes(self, cache):
        return {"tiles": 5 * cache.manifest.views * self.settings.scale**2}

    def compare(self, stored, anew):
        return Likeness(cosine(stored["tiles/cls"], anew["tiles/cls"]), 0.999, "cosine of tiles")

    def inspect(self, block):
        if not __import__("numpy").isfinite(block.arrays["tiles/cls"]).all():
            yield Finding("values", "block", "a tile is not finite")
'''
REFERENCE = "python:own_tiles:Tiles"


@pytest.fixture
def tiles(tmp_path, monkeypatch):
    """The name of a stage whose module stands beside the user's work; forgotten afterwards."""
    (tmp_path / "own_tiles.py").write_text(FILE)
    monkeypatch.syspath_prepend(tmp_path)
    yield name_of(REFERENCE)
    _named.clear()
    sys.modules.pop("own_tiles", None)


@pytest.mark.slow
def test_a_stage_of_ones_own_is_built_derived_and_verified(
    built, tiny_teacher, scheduler_of_threads, tiles, tmp_path
):
    from c2s_pipeline.build.builder import build

    out, source = built
    copy = shutil.copytree(out, tmp_path / "copy.zarr")
    with pytest.raises(
        CacheError, match=r"lacks the stage tiles.*derive .*--out NEW --stage tiles"
    ):
        open_cache(copy, ("tiles",))
    wanted = request(tiny_teacher)
    report = build(source, wanted, copy, scheduler=scheduler_of_threads, update=True)
    assert report.computed == {"tiles": 5}
    assert report.passes == 5 * 4
    cache = open_cache(copy, ("tiles",))
    assert cache.manifest.axes["tile"] == 4
    assert cache.read_block(0, ["tiles/cls"]).sample(0)["tiles/cls"].shape == (4, 32)
    assert verify(cache, content(cache)) == []
    found = spot_check(cache, load_teacher(TeacherSpec(tiny_teacher, None)), [0, 3])
    assert (found.findings, "tiles" in found.worst) == ((), True)
    settings = recorded_request(cache.manifest).model_dump() | {"teacher": tiny_teacher}
    other = request_model().model_validate(settings | {"tiles": {"scale": 3}})
    derived = derive(copy, other, tmp_path / "d.zarr", Resources(scheduler=scheduler_of_threads))
    assert derived.computed == {"tiles": 5}
    scratch = build(source, other, tmp_path / "s.zarr", scheduler=scheduler_of_threads)
    assert contents(derived.path) == contents(scratch.path)


def test_a_cache_with_a_stage_that_is_not_known_here(
    built, tiny_teacher, scheduler_of_threads, tiles, tmp_path
):
    """Its bytes are verified and its other stages used all the same; it cannot be built on."""
    from c2s_pipeline.build.builder import build

    out, source = built
    copy = shutil.copytree(out, tmp_path / "copy.zarr")
    wanted = request(tiny_teacher)
    build(source, wanted, copy, scheduler=scheduler_of_threads, update=True)
    _named.clear()
    cache = open_cache(copy)
    assert verify(cache, content(cache)) == []
    assert np.isfinite(cache.read_block(0, ["tiles/cls"]).arrays["tiles/cls"]).all()
    asked = recorded_request(cache.manifest)
    assert "tiles" not in asked.stages
    with pytest.raises(ConfigError, match="would lose: tiles"):
        derive(copy, asked, tmp_path / "d.zarr", Resources(scheduler=scheduler_of_threads))
    assert not (tmp_path / "d.zarr").exists()
    with pytest.raises(C2SError, match="tiles"):
        build(source, request(tiny_teacher, stages=(*known(), "tiles")), copy)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("nothing", "There is no stage 'nothing'; choose from images, labels"),
        ("python:nowhere:Tiles", r"cannot be imported \(No module named 'nowhere'\)"),
        ("python:json:JSONDecoder", "is no subclass of"),
        ("python:json:Nothing", "cannot be imported"),
        ("python:", "write python:MODULE:CLASS"),
    ],
)
def test_a_wrong_reference_is_one_sentence(reference, message):
    with pytest.raises(ConfigError, match=message):
        name_of(reference)


def test_stages_are_closed_under_what_they_need_and_stand_after_it():
    assert closed(["regions"]) == ("images", "views", "masks", "regions")
    assert closed(["regions", "labels"]) == ("images", "labels", "views", "masks", "regions")
    assert closed(known()) == tuple(known())


def test_stages_in_a_circle_are_refused(monkeypatch):
    class First(Stage):
        name = "first"
        needs = ("second",)

    class Second(Stage):
        name = "second"
        needs = ("first",)

    monkeypatch.setitem(_named, "first", ("python:x:First", First))
    monkeypatch.setitem(_named, "second", ("python:x:Second", Second))
    with pytest.raises(ConfigError, match="first, second depend on each other in a circle"):
        closed(["first"])


def test_a_cache_holds_what_was_asked_for(built, tiny_teacher, scheduler, tmp_path):
    """Without masks nothing is clustered; what is left is as in the whole cache."""
    from c2s_pipeline.build.builder import build

    out, source = built
    few = build(
        source,
        request(tiny_teacher, stages=("global_cls", "text")),
        tmp_path / "few.zarr",
        scheduler=scheduler,
    )
    assert Cache(few.path).manifest.stage_names == ("images", "views", "global_cls", "text")
    whole, part = contents(out), contents(few.path)
    same = {name for name in part if name.startswith(("images/c", "global_cls/", "text/", "rows/"))}
    assert {n: part[n] for n in same if "/c/" in n} == {n: whole[n] for n in same if "/c/" in n}
    with pytest.raises(CacheError, match="lacks the stages masks, regions"):
        open_cache(few.path, ("masks", "regions"))
