"""`c2s ablate` and `--recipe` through the command line; the runs themselves are stood in for."""

from __future__ import annotations

import errno
import json
from types import SimpleNamespace

import pytest
import yaml

from c2s.ablation import plan, runner
from c2s.ablation.cell import Scoring
from c2s.runs.folder import read_config
from c2s_cache import C2SError, open_cache


@pytest.fixture
def instant(monkeypatch, images):
    """Runs end at once, with scores that grow by one; the list of their configurations."""
    done = []

    def run_all(runs, scoring, places, log, started, finished, tick):
        for config in runs:
            done.append(config)
            started(config)
            tick()
            h = 40.0 + len(done)
            finished(config, {"hIoU": h, "sIoU": h, "uIoU": h, "seconds": 1.0})

    monkeypatch.setattr(runner, "run_all", run_all)
    return done


@pytest.fixture
def images(monkeypatch, tiny_cache):
    """A data set to score on stands in for the one that the tiny cache was not built from."""
    classes = open_cache(tiny_cache).manifest.classes
    images = lambda scoring: (SimpleNamespace(classes=classes), ["an image"])  # noqa: E731
    monkeypatch.setattr(Scoring, "images", images)


def test_tables_of_the_paper_share_their_equal_rows(c2s, instant, tiny_cache):
    code, out, err = c2s("ablate", "--cache", tiny_cache, "--table", "IV", "--table", "v", "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert [grid["name"] for grid in facts["grids"]] == ["table-IV", "table-V"]
    assert len(instant) == 6
    assert facts["grids"][0]["rows"][3]["runs"] == facts["grids"][1]["rows"][3]["runs"]
    assert all(config.method.weights.focal == 1 for config in instant)


def test_the_table_shows_the_paper_beside(c2s, instant, tiny_cache):
    code, out, _ = c2s("ablate", "--cache", tiny_cache, "--table", "IX", "--seeds", "2")
    assert code == 0
    assert "42.3 / 41.9 / 42.7" in out
    text = " ".join(out.split())
    assert "Size 0 is read as no bank" in text
    assert "Not comparable with the paper's figures" in text
    assert "here: tiny, no --weights, 20000 iterations." in text
    assert [c.method.bank_size for c in instant] == [0, 2, 6, 14] * 2


def test_a_grid_of_ones_own_with_the_best_recipe(c2s, instant, tiny_cache, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        plan, "_cache", lambda request, _, changes: asked.append(changes) or request.cache
    )
    rows = [{"name": "a"}, {"name": "b", "train": {"lr": 0.1}}]
    (tmp_path / "lr.yaml").write_text(yaml.safe_dump({"rows": rows}))
    arguments = ("--grid", "lr.yaml", "--recipe", "best", "--iterations", "7", "--out", "here")
    code, out, err = c2s("ablate", "--cache", tiny_cache, *arguments)
    assert code == 0, err
    assert [(c.lr, c.iterations) for c in instant] == [(6e-5, 7), (0.1, 7)]
    assert instant[0].method.local_negatives == "batch"
    assert asked == [{"masks": {"threshold": "0.6"}}] * 2
    assert "as paper" not in out
    assert (tmp_path / "here/lr.md").is_file()


def test_as_the_paper_ran_it_nothing_is_said(c2s, instant, tiny_cache):
    as_paper = (
        "--iterations",
        "40000",
        "--set",
        "weights=nvidia/mit-b4",
        "--dataset",
        "coco-stuff",
    )
    code, out, err = c2s("ablate", "--cache", tiny_cache, "--table", "IV", *as_paper)
    assert code == 0, err
    assert "comparable" not in out


@pytest.mark.parametrize("dataset", ["nosuch", "shapes"])
def test_what_cannot_be_scored_is_not_trained(c2s, tiny_cache, monkeypatch, dataset):
    monkeypatch.setattr(runner, "run_all", lambda *_: pytest.fail("trained"))
    arguments = ("--table", "IV", "--dataset", dataset)
    code, _, err = c2s("ablate", "--cache", tiny_cache, *arguments)
    assert code == 2
    assert ("unknown data set 'nosuch'" if dataset == "nosuch" else "other classes") in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--table", "XII"), "the paper has no ablation table 'XII'"),
        ((), "c2s ablate needs --table NAME or --grid FILE"),
        (("--table", "IV", "--recipe", "x"), "clip-to-seg has no recipe 'x'"),
        (("--table", "IV", "--set", "method.tua=1"), "unknown key 'method.tua'"),
    ],
)
def test_wrong_usage_is_one_line(c2s, tiny_cache, arguments, message):
    code, _, err = c2s("ablate", "--cache", tiny_cache, *arguments)
    assert code == 2
    assert message in err


def test_a_failed_run_fails_the_command_but_not_the_report(c2s, monkeypatch, images, tiny_cache):
    def run_all(runs, scoring, places, log, started, finished, tick):
        for config in runs:
            finished(config, C2SError("the loss is nan."))

    monkeypatch.setattr(runner, "run_all", run_all)
    code, out, err = c2s("ablate", "--cache", tiny_cache, "--table", "IV")
    assert code == 1
    assert "the loss is nan." in out
    assert "4 runs failed" in err


def test_train_takes_a_recipe_below_its_settings(c2s, tiny_cache, tmp_path):
    fast = ("--student", "shapes-net", "--iterations", "1", "--batch-size", "2", "--workers", "0")
    more = ("--set", "method.heads=4", "--set", "method.local_reduction=area", "--name", "r")
    code, _, err = c2s("train", "--cache", tiny_cache, "--recipe", "best", *fast, *more)
    assert code == 0, err
    method = read_config(tmp_path / "runs/r").method
    assert (method.local_negatives, method.local_reduction) == ("batch", "area")
    code, _, err = c2s("train", "--resume", "runs/r", "--recipe", "best")
    assert code == 2
    assert "drop --recipe" in err


def test_what_was_measured_is_shown_where_the_reports_cannot_be_written(
    c2s, instant, tiny_cache, monkeypatch
):
    def full(out, facts):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runner, "write_report", full)
    code, out, err = c2s("ablate", "--cache", tiny_cache, "--table", "IX", "--out", "a[b]")
    assert code == 1
    assert "42.3 / 41.9 / 42.7" in out
    assert "error: a[b] cannot be written to (No space left on device). Make room there;" in err
