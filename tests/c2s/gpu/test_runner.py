"""Steps that hang, fail, die and eat memory leave the rest standing."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from c2s.gpu.processes import family
from c2s.gpu.runner import Runner
from c2s.gpu.steps import Step
from c2s.gpu.world import World, write_world

MIB = 2**20


def step(name, seconds=60.0, alone=False):
    return Step(name, f"gpu_steps:{name}", seconds, "", alone)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run steps by name; returns how each ended, in the order of their ends."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    write_world(World(tmp_path, "cpu", True, tmp_path / "gpu.json"))

    def run(*steps, seconds=120.0, memory=1024 * MIB, lanes=1, measures=True, stop_after=None):
        ends = {}

        def record(name, found):
            ends[name] = found
            if name == stop_after:
                runner.stopped = "SIGTERM"

        deadline = time.monotonic() + seconds
        runner = Runner(sys.executable, tmp_path, deadline, memory, record, lanes, measures)
        runner.run([s if isinstance(s, Step) else step(s) for s in steps])
        return ends

    return run


def log(tmp_path, name):
    return (tmp_path / "logs" / f"{name}.log").read_text()


@pytest.mark.slow
def test_every_end_is_recorded_and_the_next_step_starts(run, tmp_path):
    ends = run("fails", "refuses", "declines", "dies", "exits", "runs_out", "good")
    states = {name: found["state"] for name, found in ends.items()}
    assert states == {
        **dict.fromkeys(("fails", "refuses", "dies", "exits", "runs_out"), "failed"),
        "declines": "skipped",
        "good": "passed",
    }
    known = {"rate": 3.5, "small": True, "apart": "inf", "folder": tmp_path.name}
    assert ends["good"]["figures"] == known
    assert ends["good"]["peak_memory_mib"] >= 0
    assert ends["good"]["processor_seconds"] > 0
    assert ends["fails"]["sentence"] == "ValueError: this is wrong"
    assert "Traceback" in log(tmp_path, "fails")
    assert ends["refuses"]["sentence"] == "the two differ"
    assert ends["refuses"]["figures"] == {"difference": 0.5}
    assert ends["declines"]["sentence"] == "there is no such library here"
    assert "ran out of memory" in ends["dies"]["sentence"]
    assert ends["exits"]["sentence"] == "It died by exit code 7: something in C went wrong"
    assert ends["runs_out"]["sentence"].startswith("MemoryError")


@pytest.mark.slow
def test_a_step_that_hangs_is_ended_with_all_that_it_started(run, tmp_path):
    ends = run(step("hangs", 3.0), "good")
    assert ends["hangs"]["state"] == "timed out"
    assert "time box of 3 s" in ends["hangs"]["sentence"]
    assert "in hangs" in log(tmp_path, "hangs")  # where it hung
    sleeper = int((tmp_path / "sleeper").read_text())
    assert sleeper not in family(sleeper)
    assert ends["good"]["state"] == "passed"


@pytest.mark.slow
def test_a_step_that_eats_memory_is_ended(run):
    ends = run("eats", "good", memory=300 * MIB)
    assert ends["eats"]["state"] == "failed"
    assert "more than the 300 allowed" in ends["eats"]["sentence"]
    assert ends["eats"]["peak_memory_mib"] > 300
    assert ends["good"]["state"] == "passed"


@pytest.mark.slow
def test_no_minute_more_than_allowed(run):
    began = time.monotonic()
    ends = run(step("hangs", 500.0), "good", seconds=2.0)
    assert time.monotonic() - began < 60
    assert ends["hangs"]["state"] == "timed out"
    assert ends["hangs"]["sentence"] == "Killed: no minutes were left."
    assert ends["good"]["state"] == "skipped"
    assert ends["good"]["sentence"] == "Not begun: no minutes were left. Repeat with STEPS=good."


def test_a_signal_ends_the_run_with_everything_recorded(run):
    ends = run("good", "hangs", "fails", stop_after="good")
    assert next(found["state"] for found in ends.values()) == "passed"
    assert {ends["hangs"]["state"], ends["fails"]["state"]} <= {"timed out", "skipped"}
    assert "SIGTERM came" in ends["fails"]["sentence"]


@pytest.mark.parametrize("measures", [True, False])
def test_steps_that_measure_have_the_machine_to_themselves(run, monkeypatch, measures):
    """Two side by side, then one alone; in a rehearsal it is like the others."""
    under_way, most = [], {}
    start, look = Runner._start, Runner._look

    def started(self, one):
        under_way.append(one.name)
        for name in under_way:
            most[name] = max(most.get(name, 0), len(under_way))
        return start(self, one)

    def looked(self, one):
        if (found := look(self, one)) is not None:
            under_way.remove(one.step.name)
        return found

    monkeypatch.setattr(Runner, "_start", started)
    monkeypatch.setattr(Runner, "_look", looked)
    steps = ("fails", "refuses", step("good", alone=True), "declines", "exits")
    run(*steps, lanes=2, measures=measures)
    assert most["fails"] == most["refuses"] == 2
    assert most["good"] == (1 if measures else 2)
    assert os.getpid() in family(os.getpid())
