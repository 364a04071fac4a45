"""Where runs compute, and with how many threads."""

from __future__ import annotations

import multiprocessing

import pytest
import torch

from c2s.ablation import workers
from c2s.ablation.workers import Place, one_per_core, places
from c2s_pipeline import lanes


@pytest.fixture
def machine(monkeypatch):
    """Eight cores, no OMP_NUM_THREADS, and as many GPUs as are asked for."""
    monkeypatch.setattr(lanes, "processors", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return lambda count: monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("gpus", "runs", "jobs", "expected"),
    [
        (0, 9, None, [Place()]),
        (1, 9, None, [Place()]),
        (3, 9, None, [Place("0", 2), Place("1", 2), Place("2", 2)]),
        (3, 2, None, [Place("0", 4), Place("1", 4)]),
        (0, 9, 4, [Place("", 2)] * 4),
        (0, 3, 8, [Place("", 2)] * 3),
        (0, 1, 8, [Place()]),
        (0, 99, 16, [Place("", 1)] * 16),
        (1, 9, 2, [Place("", 4)] * 2),
        (2, 9, 3, [Place("0", 2), Place("1", 2), Place("0", 2)]),
    ],
)
def test_places_share_gpus_and_cores(machine, gpus, runs, jobs, expected):
    machine(gpus)
    assert places(runs, jobs) == expected


def test_gpus_go_by_the_names_that_this_process_sees(machine, monkeypatch):
    machine(2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert [place.gpu for place in places(9)] == ["5", "7"]


def test_threads_that_the_environment_names_are_left(machine, monkeypatch):
    machine(0)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert places(9, 4) == [Place()] * 4


def test_a_run_per_core_where_there_is_no_gpu(machine):
    machine(0)
    assert one_per_core() == 8
    machine(1)
    assert one_per_core() is None


@pytest.mark.parametrize("threads", [1, 3])
def test_a_worker_has_its_threads(tmp_path, monkeypatch, threads):
    """Served in this process: its first run says how many it found."""
    before, found = torch.get_num_threads(), []
    monkeypatch.setattr(
        workers, "run_cell", lambda config, scoring: found.append(torch.get_num_threads()) or {}
    )
    for name in ("setpgid", "dup2"):
        monkeypatch.setattr(workers.os, name, lambda *a: None)
    monkeypatch.setattr(workers, "listen", lambda: None)
    ours, theirs = multiprocessing.Pipe()
    ours.send((None, None))
    ours.close()
    try:
        workers._serve(theirs, Place("", threads), tmp_path / "log")
    except OSError:
        pass
    finally:
        torch.set_num_threads(before)
    assert found == [threads]
