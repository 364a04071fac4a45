"""Invariant: a worker is a process of its own with its place; it ends with its parent, and its run survives it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from c2s.ablation.cell import Scoring, run_cell
from c2s.runs.config import TrainConfig
from c2s.training.signals import Interrupted, StopRequest, deaf, listen
from c2s_cache.errors import C2SError

Outcome = dict[str, Any] | C2SError
NAME = "c2s-ablate"
"""Of the worker processes."""


class Place(NamedTuple):
    """Where a worker computes.

    Attributes:
        gpu: a GPU's name, or "" for whatever device the configuration names.
        threads: of torch on the CPU; 0: torch's own number.
    """

    gpu: str = ""
    threads: int = 0


def run_all(
    runs: list[TrainConfig],
    scoring: Scoring,
    places: list[Place],
    log: Path,
    started: Callable[[TrainConfig], None],
    finished: Callable[[TrainConfig, Outcome], None],
    tick: Callable[[], None],
) -> None:
    """Run cells, one worker process per place; a cell that fails does not stop the others.

    Args:
        runs: resolved configurations.
        scoring: what to score on.
        places: a worker each.
        log: file that takes the workers' output.
        started, finished: called when a cell begins and ends, with its scores or its error.
        tick: called about every second.

    Raises:
        C2SError: a worker died.
        Interrupted: a signal asked for the end; the workers have saved what they had.
    """
    context = multiprocessing.get_context("spawn")
    waiting = list(reversed(runs))
    busy: dict[Connection, tuple[Any, TrainConfig]] = {}
    processes = []
    with StopRequest() as stop:
        try:
            for place in places[: len(runs)]:
                ours, theirs = context.Pipe()
                process = context.Process(name=NAME, target=_serve, args=(theirs, place, log))
                with deaf():  # until it is in a process group of its own
                    process.start()
                theirs.close()
                processes.append(process)
                busy[ours] = (process, _give(ours, waiting.pop(), scoring, started))
            while busy:
                for ready in wait(list(busy), timeout=1.0):
                    assert isinstance(ready, Connection)
                    process, config = busy.pop(ready)
                    finished(config, _take(ready, process, config, log))
                    if waiting:
                        busy[ready] = (process, _give(ready, waiting.pop(), scoring, started))
                    else:
                        ready.close()
                tick()
                if stop.number:
                    raise Interrupted(
                        f"Stopped by {signal.Signals(stop.number).name}; what was trained is saved.",
                        "The same command goes on where it stopped.",
                        stop.number,
                    )
        finally:
            for connection in busy:
                connection.close()
            for process in processes:
                if sys.exc_info()[0] is not None and process.is_alive():
                    process.terminate()  # SIGTERM: training saves a checkpoint, then stops
                process.join()


def _give(
    connection: Connection,
    config: TrainConfig,
    scoring: Scoring,
    started: Callable[[TrainConfig], None],
) -> TrainConfig:
    connection.send((config, scoring))
    started(config)
    return config


def _take(connection: Connection, process: Any, config: TrainConfig, log: Path) -> Outcome:
    try:
        outcome: Outcome = connection.recv()
    except (EOFError, ConnectionError):
        process.join()
        raise C2SError(
            f"the process that trained {config.run_name} died (exit code {process.exitcode}); its memory "
            f"may have run out. Its last words are in {log}.",
            "The same command goes on where it stopped.",
        ) from None
    return outcome


def _serve(connection: Connection, place: Place, log: Path) -> None:
    """Run cells until the parent closes the pipe, or is gone."""
    os.setpgid(0, 0)  # Ctrl-C reaches the parent alone, which then asks once, by SIGTERM
    listen()
    with log.open("a", encoding="utf-8", buffering=1) as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    if place.gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = place.gpu  # before anything has touched CUDA
    if place.threads:
        import torch

        torch.set_num_threads(place.threads)
    while True:
        try:
            config, scoring = connection.recv()
        except EOFError:
            return
        try:
            outcome: Outcome = run_cell(config, scoring)
        except C2SError as error:
            outcome = error
        except Exception as error:
            traceback.print_exc()
            outcome = C2SError(f"{type(error).__name__}: {error} (see {log}).")
        try:
            connection.send(outcome)
        except (BrokenPipeError, EOFError):
            return


def places(runs: int, jobs: int | None = None) -> list[Place]:
    """Where to run so many runs.

    Args:
        runs: how many there are, at least 1.
        jobs: side by side; GPUs are taken in turn. Default: one per GPU, or one.

    Returns:
        At most one place per run. Of several each has its share of the cores as threads, unless OMP_NUM_THREADS
        says how many.
    """
    from c2s_pipeline.devices import visible_gpus
    from c2s_pipeline.lanes import processors

    gpus = visible_gpus()
    names = gpus if len(gpus) > 1 else [""]
    count = min(jobs or len(names), runs)
    shared = count > 1 and "OMP_NUM_THREADS" not in os.environ
    threads = max(processors() // count, 1) if shared else 0
    return [Place(names[i % len(names)], threads) for i in range(count)]


def one_per_core() -> int | None:
    """As many runs side by side as there are cores where no GPU computes, or else what `places` takes by itself.

    A small student's step is hardly shorter with two threads than with one, so that two runs side by side take little
    more time than one alone.
    """
    from c2s_pipeline.devices import visible_gpus
    from c2s_pipeline.lanes import processors

    return None if visible_gpus() else processors()
