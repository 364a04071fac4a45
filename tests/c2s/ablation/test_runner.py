"""Grids end to end on a tiny cache, in worker processes: resuming, failing, dying."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from c2s.ablation import cell
from c2s.ablation.cell import run_cell, stored_scores
from c2s.ablation.plan import make_plan
from c2s.ablation.runner import ablate
from c2s.ablation.workers import NAME
from c2s.runs.checkpoint import saved_step
from c2s.runs.config import dump_yaml
from c2s.runs.sealed import read_sealed, write_sealed
from c2s.training.logs import read_metrics
from c2s.training.signals import Interrupted
from c2s_cache import C2SError

pytestmark = pytest.mark.slow


def silent(board):
    pass


def scores(facts):
    return [[{**r, "seconds": 0} for r in row["runs"]] for row in facts["grids"][0]["rows"]]


def test_a_grid_runs_reports_and_is_done_when_asked_again(grid, request_, scoring):
    plan = make_plan([grid], request_)
    seen = []
    (facts,) = ablate([plan], scoring, lambda board: seen.append(dict(board.outcomes)), jobs=2)
    assert facts["failed"] == {}
    assert len(seen[-1]) == 4
    rows = facts["grids"][0]["rows"]
    assert [len(row["runs"]) for row in rows] == [2, 2, 2]
    assert rows[0]["runs"] == rows[2]["runs"]
    assert rows[0]["seconds"] > 0
    report = (request_.out / "small.md").read_text()
    assert "| plain |" in report
    assert json.loads((request_.out / "small.json").read_text()) == facts

    stamps = {p: p.stat().st_mtime_ns for p in (request_.out / "runs").rglob("*")}
    (again,) = ablate([plan], scoring, silent)
    assert scores(again) == scores(facts)
    assert stamps == {p: p.stat().st_mtime_ns for p in (request_.out / "runs").rglob("*")}

    other = replace(scoring, split="train")  # other images: scored again, not trained again
    weights = plan.runs[0].runs / plan.runs[0].run_name / "checkpoint/student.safetensors"
    before = weights.stat().st_mtime_ns
    assert scores(ablate([plan], other, silent)[0]) != scores(facts)
    assert weights.stat().st_mtime_ns == before


def test_a_run_is_scored_on_several_data_sets(grid, request_, scoring, tmp_path):
    """Trained once; by the names of their classes, which here are the run's own in another order."""
    pictures = Path(scoring.dataset)
    other = tmp_path / "other"
    shutil.copytree(pictures, other)
    names = yaml.safe_load((pictures / "classes.yaml").read_text())["classes"]
    (other / "classes.yaml").write_text(yaml.safe_dump({"classes": names[::-1]}))
    for file in (other / "masks").iterdir():
        turned = len(names) - 1 - np.asarray(Image.open(file))
        Image.fromarray(turned.astype(np.uint8)).save(file)
    small = grid.model_copy(update={"seeds": 1, "rows": grid.rows[:1]})
    plan = make_plan([small], request_)
    both = replace(scoring, others=(str(other),))
    (facts,) = ablate([plan], both, silent)
    assert facts["failed"] == {}
    (one,) = facts["grids"]
    column = f"mIoU@{other}"
    assert one["columns"] == ["hIoU", "sIoU", "uIoU", column]
    found = run_cell(plan.runs[0], both)
    assert found[column] == found["mIoU"]  # the same pictures, the same classes
    assert one["rows"][0][column] == round(found["mIoU"], 2)
    assert f"| {column} |" in (request_.out / "small.md").read_text()
    assert stored_scores(plan.runs[0], replace(scoring, others=("voc",))) is None


def workers():
    """The runner's processes; those of the other tests' cluster are children, too."""
    return [p for p in multiprocessing.active_children() if p.name == NAME]


def test_a_grid_that_is_stopped_goes_on_to_the_same_scores(grid, request_, scoring, tmp_path):
    whole = replace(request_, out=tmp_path / "whole")
    expected = [run_cell(run, scoring) for run in make_plan([grid], whole).runs[:1]]
    request = replace(request_, seeds=1)
    plan = make_plan([grid], request)
    first = plan.runs[0]

    def stop(board):
        if read_metrics(first.runs / first.run_name):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match=r"SIGTERM.* same command") as caught:
        ablate([plan], scoring, stop)
    assert caught.value.exit_code == 128 + signal.SIGTERM
    assert not workers()
    assert saved_step(first.runs / first.run_name) is not None
    (facts,) = ablate([plan], scoring, silent)
    got = facts["grids"][0]["rows"][0]["runs"][0]
    assert {k: got[k] for k in ("hIoU", "sIoU", "uIoU")} == {
        k: expected[0][k] for k in ("hIoU", "sIoU", "uIoU")
    }


def test_a_run_that_fails_is_reported_and_the_others_go_on(grid, request_, scoring):
    broken = grid.rows[1].model_copy(update={"train": {"weights": "nowhere.safetensors"}})
    grid = grid.model_copy(update={"rows": (broken, grid.rows[0]), "seeds": 1})
    plan = make_plan([grid], request_)
    (facts,) = ablate([plan], scoring, silent)
    assert list(facts["failed"]) == [plan.runs[0].run_name]
    assert "nowhere.safetensors" in facts["failed"][plan.runs[0].run_name]
    rows = facts["grids"][0]["rows"]
    assert (rows[0]["hIoU"], len(rows[1]["runs"])) == (None, 1)
    assert "Failed: " in (request_.out / "small.md").read_text()


def test_a_worker_that_dies_is_one_sentence(grid, request_, scoring):
    def kill(board):
        if board.running:
            workers()[0].kill()

    with pytest.raises(C2SError, match=r"died \(exit code -9\)"):
        ablate([make_plan([grid], request_)], scoring, kill)


def test_scores_of_another_configuration_are_not_taken(grid, request_, scoring):
    run = make_plan([grid], request_).runs[0]
    run_cell(run, scoring)
    assert stored_scores(run, scoring) is not None
    assert stored_scores(run, replace(scoring, limit=1)) is None
    other = run.model_copy(update={"lr": 1e-3})  # under the same name
    assert stored_scores(other, scoring) is None
    file = run.runs / run.run_name / scoring.file
    stored = file.read_text()
    assert '"images": ' in stored
    for wrong in ("[]", "{}", "[" * 1500, stored.replace('"images": ', '"images": 1')):
        file.write_text(wrong)  # of them too, what was not written so is computed again
        assert stored_scores(run, scoring) is None


def test_a_run_that_stopped_early_for_good_is_finished(grid, request_, scoring):
    run = make_plan([grid], request_).runs[0]
    scored = run_cell(run, scoring)
    path = run.runs / run.run_name
    longer = run.model_copy(update={"iterations": 9})
    (path / "config.yaml").write_text(dump_yaml(longer))
    state = path / "checkpoint/state.json"
    for complete, expected in ((False, None), (True, scored)):
        write_sealed(state, read_sealed(state) | {"complete": complete})
        assert stored_scores(longer, scoring) == expected


def test_nobody_else_trains_a_run_that_is_being_trained(grid, request_, scoring, monkeypatch):
    run = make_plan([grid], request_).runs[0]

    def train(config, path):
        with cell.lock_file(path).open("w") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        raise C2SError("seen")

    monkeypatch.setattr(cell, "_train", train)
    with pytest.raises(C2SError, match="seen"):
        run_cell(run, scoring)
    assert not cell.lock_file(run.runs / run.run_name).exists()  # free again, and nothing is left
