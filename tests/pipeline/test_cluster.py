"""Local clusters, with real processes: every worker has a GPU of its own, and its environment is ours."""

from __future__ import annotations

import _multiprocessing
import os
from multiprocessing import resource_tracker

import pytest

from c2s_pipeline.build import dask_cluster as cluster
from c2s_pipeline.build.dask_cluster import ENVIRONMENT, connect


def environment():
    return dict(os.environ)


@pytest.mark.slow
def test_workers_have_a_gpu_each_in_turn(monkeypatch):
    monkeypatch.setattr(cluster, "visible_gpus", lambda: ["3", "GPU-8a56"])
    with connect(None, 3, "cuda", blocks=2) as client:
        seen = list(client.run(environment).values())
        assert list(client.ncores().values()) == [2, 2, 2]
    assert sorted(e["CUDA_VISIBLE_DEVICES"] for e in seen) == ["3", "3", "GPU-8a56"]
    threads = {k: v for k, v in ENVIRONMENT.items() if k.endswith("_THREADS")}
    assert [{k: e.get(k) for k in threads} for e in seen] == [threads] * 3


@pytest.mark.slow
def test_workers_on_a_cpu_are_told_of_no_gpu(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with connect(None, 1, "cpu") as client:
        (seen,) = client.run(environment).values()
    assert "CUDA_VISIBLE_DEVICES" not in seen


@pytest.mark.skipif(os.name == "nt", reason="semaphores have no names on Windows")
def test_no_semaphore_of_a_cluster_that_has_started_has_a_name(monkeypatch):
    """So that none is left in /dev/shm by a build that is killed with all of its processes."""
    names = []

    def note(name, kind):
        if kind == "semaphore":
            names.append(name)
        register(name, kind)

    register = resource_tracker.register
    monkeypatch.setattr(resource_tracker, "register", note)  # every new semaphore comes by here
    with connect(None, 2, "cpu"):
        made = list(names)
        left = [name for name in made if has_name(name)]
    assert made
    assert left == []


def has_name(semaphore):
    try:
        _multiprocessing.sem_unlink(semaphore)
    except FileNotFoundError:
        return False
    return True
