"""The report: whole at any moment, merged by a repetition, its tables made from it."""

from __future__ import annotations

import json

import pytest

from c2s.gpu.report import Report
from c2s.gpu.steps import STEPS, Step, chosen
from c2s.gpu.tables import markdown, shown, table

DONE = {"state": "passed", "seconds": 2.0, "figures": {"ratio": 0.5}}
NOT_BEGUN = {"state": "skipped", "sentence": "Not begun: no minutes were left.", "seconds": 0.0}


def test_a_repetition_replaces_what_it_repeats_and_nothing_else(tmp_path):
    out, logs = tmp_path / "out", tmp_path / "logs"
    logs.mkdir()
    (logs / "b.log").write_text("how it went\n")
    first = Report([out, tmp_path], logs, keep=False)
    first.machine({"card": "card A", "commit": "abc"})
    first.step("a", DONE)
    first.step("b", {"state": "failed", "seconds": 1.0, "sentence": "It broke."})
    first.step("c", DONE)
    assert first.bad == ["b"]

    for name in ("gpu.json", "gpu.md", "gpu.log"):  # a machine may bring back only the copy
        (out / name).unlink()
    second = Report([out, tmp_path], logs, keep=True)
    second.machine({"card": "card B", "commit": "def"})
    second.step("b", {**DONE, "figures": {"ratio": 0.7}})
    second.step("c", NOT_BEGUN)
    facts = json.loads((out / "gpu.json").read_text())
    assert facts == json.loads((tmp_path / "gpu.json").read_text())
    assert facts.keys() == {"machine", "steps"}
    assert facts["machine"] == {"card": "card B", "commit": "def"}
    assert {n: (s["state"], s["on"], s["commit"]) for n, s in facts["steps"].items()} == {
        "a": ("passed", "card A", "abc"),
        "b": ("passed", "card B", "def"),
        "c": ("passed", "card A", "abc"),
    }
    assert facts["steps"]["b"]["figures"] == {"ratio": 0.7}
    assert second.bad == []
    assert "how it went" in (out / "gpu.log").read_text()

    third = Report([out], logs, keep=False)
    third.machine({})
    assert json.loads((out / "gpu.json").read_text())["steps"] == {}


def test_a_damaged_earlier_report_is_no_obstacle(tmp_path):
    (tmp_path / "gpu.json").write_text("{")
    report = Report([tmp_path], tmp_path / "logs", keep=True)
    report.step("a", DONE)
    assert list(json.loads((tmp_path / "gpu.json").read_text())["steps"]) == ["a"]


def test_tables():
    rows = [{"side": "ours", "rate": 1234.567}, {"side": "theirs|", "peak": None, "ok": True}]
    assert table(rows) == [
        "| side | rate | peak | ok |",
        "| --- | --- | --- | --- |",
        "| ours | 1235 | - | - |",
        "| theirs\\| | - | - | yes |",
    ]
    assert shown({"a": [1, 0.25]}) == "(a 1, 0.25)"
    figures = {"rows": rows, "ratio": 0.5}
    text = markdown(
        {
            "machine": {"card": "A Card"},
            "steps": {"x": {**DONE, "figures": figures, "on": "A Card"}},
        }
    )
    assert "A Card" in text
    assert "| ours | 1235 |" in text
    assert "`make gpu STEPS=x`; A Card, commit unknown." in text
    assert "rehearsal" not in text
    assert "rehearsal" in markdown({"machine": {}, "steps": {}})


def test_steps_are_named_once_and_found(monkeypatch):
    assert len({step.name for step in STEPS}) == len(STEPS)
    monkeypatch.setattr("c2s.gpu.steps.STEPS", tuple(Step(n, "", 1, "") for n in "abc"))
    assert [step.name for step in chosen([])] == ["a", "b", "c"]
    assert [step.name for step in chosen(["c", "a"])] == ["a", "c"]
    with pytest.raises(ValueError, match="no step d; the steps are: a b c"):
        chosen(["a", "d"])
