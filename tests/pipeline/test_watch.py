"""Workers and schedulers that do not answer: told from slow ones, named, and never waited for without end."""

from __future__ import annotations

import errno

import pytest
from distributed.comm import CommClosedError

from c2s_cache import C2SError
from c2s_pipeline.build.builder import machine_errors
from c2s_pipeline.build.dispatch import LOOKS, PATIENCE, Lost, Watch


class Cluster:
    """Stands in for a Dask client: what its scheduler says at each look."""

    _start_arg = "tcp://host:8786"

    def __init__(self, answers):
        self._answers = iter(answers)
        self.scheduler = self

    def identity(self):
        raise AssertionError

    def sync(self, call, **options):
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return {"workers": {name: {"last_seen": seen} for name, seen in answer.items()}}


def watch(answers, looks):
    told = []
    found = Watch(Cluster(answers), told.append)
    for _ in range(looks):
        found.look()
    return told


def test_workers_whose_heartbeats_come_are_waited_for():
    """Whatever their tasks take, and when the builder itself was halted: one look, not a clock, is missed."""
    answers = [{"a": i // 2, "b": i} for i in range(10 * LOOKS)]
    assert watch(answers, 10 * LOOKS) == []
    halted = [{"a": 1}] * LOOKS + [{"a": 2}] * LOOKS
    assert watch(halted, 2 * LOOKS) == []
    told = watch([{"a": 1}] * PATIENCE + [{"a": 2}], PATIENCE + 1)
    assert told == ["worker a did not answer for 60 s; waiting for it."]


def test_a_silent_one_among_others_is_named_once():
    told = watch([{"a": 1, "b": i} for i in range(3 * LOOKS)], 3 * LOOKS)
    assert told == ["worker a did not answer for 60 s; the others go on."]


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ([{"a": 1}] * 99, "worker a did not answer for 300 s .*, and there is no other. End it."),
        ([{"a": 1, "b": 1}] * 99, "workers a, b did not answer"),
        ([{}] * 99, "tcp://host:8786 has no workers left. Run the same command again to resume."),
        ([TimeoutError()] * 99, "tcp://host:8786 does not answer any more"),
        ([OSError(), TimeoutError(), AttributeError()] * 33, "does not answer any more"),
    ],
)
def test_nobody_is_waited_for_without_end(answers, says):
    with pytest.raises(Lost, match=says):
        watch(answers, PATIENCE + 1)


def test_workers_that_are_being_started_again_have_time():
    answers = [{"a": 1}, *[{}] * (LOOKS - 1), {"b": 1}, *[{}] * (LOOKS - 1), {"c": 1}]
    assert watch(answers, len(answers)) == []


@pytest.mark.parametrize("error", [TimeoutError(), CommClosedError("in <TCP>: Stream is closed")])
def test_a_connection_that_times_out_is_no_full_disk(error, tmp_path):
    """Both are of Python's kind of errors of files, and have no number of one."""
    silent = r"^the worker processes that build \S+ do not answer \(.+\)"
    with pytest.raises(C2SError, match=silent), machine_errors(tmp_path / "a.zarr"):
        raise error
    full = OSError(errno.ENOSPC, "No space left on device")
    written = r"a\.zarr cannot be written: No space left"
    with pytest.raises(C2SError, match=written), machine_errors(tmp_path / "a.zarr"):
        raise full
