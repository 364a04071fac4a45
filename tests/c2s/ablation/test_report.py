"""Reports, by hand."""

from __future__ import annotations

import json

import pytest

from c2s.ablation.plan import make_plan
from c2s.ablation.report import costs, grid_facts, markdown
from c2s.ablation.teacher_time import teacher_time
from c2s.methods.clip_to_seg import ClipToSegConfig
from c2s.methods.registry import method_config
from c2s_cache import C2SError, Cache, ConfigError

SCORING = {"dataset": "tiny", "split": "val", "limit": None}


def outcome(h, seconds=2.0):
    return {"hIoU": h, "sIoU": h + 1, "uIoU": h + 2, "seconds": seconds}


@pytest.fixture
def tables(grid, request_):
    return make_plan([grid], request_).tables[0]


def facts_of(tables, plain, full):
    grid, lines = tables
    values = zip((lines[0], lines[1]), (full, plain), strict=True)
    outcomes = {
        run.run_name: v for line, of in values for run, v in zip(line.runs, of, strict=True)
    }
    return grid_facts(grid, lines, outcomes)


def test_means_spreads_and_directions(tables):
    facts = facts_of(tables, [outcome(30), outcome(34)], [outcome(50), outcome(52)])
    full, plain, again = facts["rows"]
    assert (plain["hIoU"], plain["sIoU"], plain["uIoU"]) == (32, 33, 34)
    assert plain["spread"]["hIoU"] == pytest.approx(8**0.5, abs=0.01)
    assert plain["direction"] == {"alike": True, "within_spread": False}
    assert full["direction"] is None
    assert again["direction"] is None
    assert facts["order"] == {"pairs": 1, "alike": 1}
    costs = {"caches": {}, "failed": {}, "teacher": {"saved_seconds": None}}
    report = markdown({"grids": [facts], "scoring": SCORING, **costs})
    assert "| plain | 32.0±2.8 | 33.0±2.8 | 34.0±2.8 | 2 | 40.0 / 50.0 / 30.0 | yes |" in report
    assert "1 of 1 pairs of rows in the paper's order." in report


def test_a_difference_below_the_spreads_is_called_so(tables):
    facts = facts_of(tables, [outcome(52), outcome(56)], [outcome(50), outcome(54)])
    assert facts["rows"][1]["direction"] == {"alike": False, "within_spread": True}
    assert facts["order"] == {"pairs": 1, "alike": 0}


def test_equal_means_are_no_order(tables):
    facts = facts_of(tables, [outcome(50), outcome(54)], [outcome(50), outcome(54)])
    assert facts["order"] == {"pairs": 1, "alike": 0}


def test_what_failed_or_is_not_done_leaves_a_dash(tables):
    facts = facts_of(tables, [C2SError("no"), outcome(30)], [C2SError("no"), C2SError("no")])
    full, plain, _ = facts["rows"]
    assert (full["hIoU"], full["runs"]) == (None, [])
    assert (plain["hIoU"], plain["spread"]) == (30, {})
    assert facts["order"]["pairs"] == 0


def test_without_seen_classes_the_column_is_that_of_all(tables):
    grid, lines = tables
    alone = {"hIoU": None, "sIoU": None, "uIoU": 40.0, "mIoU": 40.0, "mIoU@other": 7.0}

    def facts_of_classes(*unseen):
        scores = alone | {"seconds": 1.0, "classes": [{"unseen": u} for u in unseen]}
        outcomes = {run.run_name: scores for line in lines for run in line.runs}
        return grid_facts(grid, lines, outcomes, ("other",))

    facts = facts_of_classes(True, True)
    assert facts["columns"] == ["mIoU", "mIoU@other"]
    assert {row["mIoU"] for row in facts["rows"]} == {40}
    assert facts_of_classes(False, False)["columns"] == ["mIoU", "mIoU@other"]
    # Nothing seen is in the few images that were scored, and that is no matter of the table.
    assert facts_of_classes(True, False)["columns"] == ["hIoU", "sIoU", "uIoU", "mIoU@other"]


def test_figures_of_the_paper_that_have_no_score_beside_them_are_named(tables):
    grid, lines = tables
    columns = ("mIoU@a", "mIoU@b", "sIoU")
    elsewhere = grid.model_copy(update={"columns": columns})
    outcomes = {
        run.run_name: outcome(50.0) | {f"mIoU@{name}": 7.0 for name in "abc"}
        for line in lines
        for run in line.runs
    }
    costs = {"caches": {}, "failed": {}, "teacher": {"saved_seconds": None}}

    def below(grid, others):
        facts = grid_facts(grid, lines, outcomes, others)
        return facts["absent"], markdown({"grids": [facts], "scoring": SCORING, **costs})

    absent, report = below(elsewhere, ("c",))
    assert absent == ["mIoU@a", "mIoU@b"]
    assert "figures of a and b are shown beside scores there: --on a --on b." in report
    assert below(elsewhere, ("b", "c"))[0] == ["mIoU@a"]
    absent, report = below(elsewhere, ("a", "b"))
    assert not absent
    assert "--on" not in report
    # A grid that chooses its own data sets is not one of the paper's.
    assert not below(elsewhere.model_copy(update={"on": ("c",)}), ("c",))[0]


def test_a_row_that_the_cache_does_not_fit_is_left_out_and_said(grid, request_, monkeypatch):
    def require_fit(self, manifest):
        if not self.latent_embedding:
            raise ConfigError(f"{manifest.dataset} has no room.", "Take another.")

    monkeypatch.setattr(ClipToSegConfig, "require_fit", require_fit)
    plan = make_plan([grid], request_)
    assert {run.method.latent_embedding for run in plan.runs} == {True}
    assert len(plan.runs) == 2  # seeds; the third row has the settings of the first
    outcomes = {run.run_name: outcome(50.0) for run in plan.runs}
    facts = grid_facts(*plan.tables[0], outcomes)
    assert facts["left_out"] == {"plain": "tiny has no room. Take another."}
    assert [row["hIoU"] for row in facts["rows"]] == [50, None, 50]
    costs = {"caches": {}, "failed": {}, "teacher": {"saved_seconds": None}}
    report = markdown({"grids": [facts], "scoring": SCORING, **costs})
    assert "plain is left out: tiny has no room. Take another." in report
    alone = grid.model_copy(update={"rows": grid.rows[1:2]})
    with pytest.raises(ConfigError, match=r"No row fits .*tiny.zarr: tiny has no room"):
        make_plan([alone], request_)


def test_no_cache_is_derived_for_a_row_that_is_left_out(grid, request_, monkeypatch):
    def require_fit(self, manifest):
        if not self.latent_embedding:
            raise ConfigError("No room.", "Take another.")

    build = {"masks": {"threshold": 0.5}}
    rows = tuple(row.model_copy(update={"build": build}) for row in grid.rows[:2])
    alike = grid.model_copy(update={"rows": rows})
    assert len(make_plan([alike], request_).derived) == 1
    other = rows[1].model_copy(update={"build": {"masks": {"threshold": 0.6}}})
    both = grid.model_copy(update={"rows": (rows[0], other)})
    assert len(make_plan([both], request_).derived) == 2
    monkeypatch.setattr(ClipToSegConfig, "require_fit", require_fit)
    (changes,) = make_plan([both], request_).derived.values()
    assert changes == build


def test_a_cache_that_has_not_paid_yet_saves_nothing(tiny_cache, tables):
    spent = {"cached_seconds": 9.0, "online_seconds": 2.0, "images_per_s": 1.0, "views": 2}
    facts = {"caches": {}, "failed": {}, "teacher": spent | {"saved_seconds": -7.0}}
    (line,) = costs(facts)
    assert line.endswith("would have taken 2 s at the rate of the build (1.0 images/s).")
    assert costs(facts | {"teacher": spent | {"saved_seconds": 3.0}})[0].endswith(": 3 s saved.")
    runs = [run for line in tables[1] for run in line.runs]
    labels = [run.model_copy(update={"method": method_config({"name": "clip-rc"})}) for run in runs]
    assert teacher_time([str(tiny_cache)], labels)["saved_seconds"] is None


def test_teacher_time_is_what_the_builds_recorded(tiny_cache, tmp_path, tables):
    import shutil

    cache, derived = tmp_path / "a.zarr", tmp_path / "b.zarr"
    for path in (cache, derived):
        shutil.copytree(tiny_cache, path)
    stages = [stage.name for stage in Cache(cache).manifest.stages if not stage.once]
    lines = [
        {"seconds": 4.0, "stages": {**dict.fromkeys(stages, 8), "text": 1}},
        {"seconds": 0.75, "stages": dict.fromkeys(stages, 2)},
        {"seconds": 0.25, "stages": {stages[-1]: 10}},  # not all of what the teacher says
    ]
    (cache / "provenance.jsonl").write_text("".join(json.dumps(e) + "\n" for e in lines))
    assert teacher_time([str(cache), str(derived)], [])["cached_seconds"] is None
    derive = {"seconds": 3.0, "stages": {"masks": 10}}
    (derived / "provenance.jsonl").write_text(json.dumps(derive) + "\n")
    runs = [run for line in tables[1][:2] for run in line.runs]  # 4 runs of 4 iterations of 2
    assert teacher_time([str(cache), str(derived)], runs) == {
        "cached_seconds": 8.0,
        "images_per_s": 2.11,
        "views": 32,
        "online_seconds": 15.2,
        "saved_seconds": 7.2,
    }


def test_a_cost_that_no_build_recorded_is_not_invented(tiny_cache, tables):
    teacher = teacher_time([str(tiny_cache)], [])
    assert teacher["online_seconds"] is None
    assert costs({"caches": {}, "failed": {}, "teacher": teacher}) == []
