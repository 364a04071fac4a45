"""Rows that need a cache of their own: Table X and recipes that change the build."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from c2s.ablation.plan import Request, make_plan
from c2s.ablation.runner import derive_caches
from c2s.datasets import load_dataset
from c2s.methods.clip_to_seg.tables import TABLES
from c2s.methods.grid import Grid, Row
from c2s.methods.recipes import Recipe
from c2s.runs.checkpoint import saved_step
from c2s.runs.config import load_config
from c2s.shapes.defaults import BUILD
from c2s.training.run import resume, train
from c2s_cache import ConfigError, open_cache

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shapes(tmp_path_factory, scheduler):
    """A cache of six scenes with the bundled teacher."""
    from c2s_pipeline.build.builder import build
    from c2s_pipeline.build.request import build_request

    out = tmp_path_factory.mktemp("shapes") / "shapes.zarr"
    request = build_request(**{**BUILD, "limit": 6, "block_rows": 6})
    build(load_dataset("shapes").split("train"), request, out, scheduler=scheduler)
    return out


def test_table_10_derives_the_caches_that_differ_once(shapes, tmp_path):
    request = Request(str(shapes), tmp_path / "out")
    whole = make_plan([TABLES["X"]], request)
    three, seven, both = (line.runs[0] for line in whole.tables[0][1])
    assert both.cache == str(shapes)
    assert whole.derived == {
        Path(three.cache): {"masks": {"windows": [3]}},
        Path(seven.cache): {"masks": {"windows": [7]}},
    }
    assert len({run.run_name for run in (three, seven, both)}) == 3
    rows = TABLES["X"].rows
    plan = make_plan([TABLES["X"].model_copy(update={"rows": (rows[0], rows[2])})] * 2, request)
    assert not request.out.exists()

    derive_caches(plan)
    made = open_cache(three.cache).manifest
    assert made.stage("masks").settings["windows"] == [3]
    assert made.stage("masks").settings["threshold"] == BUILD["masks"]["threshold"]
    stamp = (Path(three.cache) / "provenance.jsonl").read_text()
    derive_caches(plan)
    assert (Path(three.cache) / "provenance.jsonl").read_text() == stamp


def test_a_recipe_may_change_the_build_of_all_rows(shapes, tmp_path):
    recipe = Recipe(build={"masks": {"threshold": 0.5}})
    plan = make_plan([TABLES["IV"], TABLES["X"]], Request(str(shapes), tmp_path, recipe))
    caches = {line.runs[0].cache for _, lines in plan.tables for line in lines}
    assert str(shapes) not in caches
    assert len(caches) == 3
    full, windows = plan.tables[0][1][3], plan.tables[1][1][2]
    assert full.runs == windows.runs


def test_a_wrong_build_setting_is_found_in_planning(shapes, tmp_path):
    request = replace(Request(str(shapes), tmp_path), recipe=Recipe(build={"mask": {}}))
    with pytest.raises(ConfigError, match="unknown key 'mask'"):
        make_plan([TABLES["IV"]], request)


def test_a_remote_cache_is_derived_from_only_after_a_copy(shapes, tmp_path):
    request = Request(f"file://{shapes}", tmp_path)
    assert len(make_plan([TABLES["IV"]], request).runs) == 4
    with pytest.raises(ConfigError, match="Copy it to a local disk first"):
        make_plan([TABLES["X"]], request)


def test_changes_are_stated_as_values_and_not_as_a_file_wrote_them(shapes, tmp_path):
    row = Row(name="a", build={"masks": {"threshold": "6e-1"}})
    plan = make_plan([Grid(name="g", rows=(row,))], Request(str(shapes), tmp_path))
    assert list(plan.derived.values()) == [{"masks": {"threshold": 0.6}}]


def test_stages_that_another_method_reads_change_no_run(shapes, tmp_path, scheduler):
    """A cache that is extended for one method keeps the finished runs of another, and those that are under way."""
    from c2s_pipeline.build.builder import build
    from c2s_pipeline.build.request import build_request

    cache = tmp_path / "shapes.zarr"
    shutil.copytree(shapes, cache)
    path = train(
        load_config(cache=str(cache), runs=tmp_path, name="one", iterations=2, batch_size=2)
    )
    grid = Grid(name="full", rows=(Row(name="full"),))

    def planned():
        (run,) = make_plan([grid], Request(str(cache), tmp_path)).runs
        return run.run_name

    before = planned()
    stages = (*open_cache(cache).manifest.stage_names, "cells")
    request = build_request(**{**BUILD, "limit": 6, "block_rows": 6, "stages": stages})
    build(load_dataset("shapes").split("train"), request, cache, scheduler=scheduler, update=True)
    assert "cells" in open_cache(cache).manifest.stage_names
    assert planned() == before
    resume(path, iterations=3)
    assert saved_step(path) == 3
