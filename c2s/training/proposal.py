"""Invariant: what nobody has chosen fits the machine and the data; what somebody has chosen is left alone."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from c2s.runs.config import TrainConfig
from c2s.training.trainer import on_gpu
from c2s.training.trial import Trial, try_training
from c2s_cache.reader import Cache

LIGHTER = {"segformer-b4": "segformer-b0"}
"""Students that a CPU trains in place of others."""
BATCHES = (8, 4, 2)
"""Images of an iteration on a CPU: the first that fits."""
SHARE = 0.8
"""Of the memory that there is."""
HOURS = 12
"""That a schedule on a CPU may take: a night."""
PASSES = 200
"""Over the images of a small data set; more of them teach nothing."""
FEWEST = 100
"""Iterations of a schedule that was cut."""
OPEN = frozenset({"student", "batch_size", "accumulate", "iterations", "workers"})
"""Settings that may be proposed."""
GIB = 2**30


@dataclass(frozen=True)
class Plan:
    """What a training takes on this machine.

    Attributes:
        config: the training; its `proposed` says what of it was chosen for the machine, and why.
        settings: what was chosen.
        gpu: whether it computes on a GPU.
        seconds: of an iteration.
        bytes: of memory at its peak, of the process or of the GPU.
        available: bytes that there are; None: it is not known.
    """

    config: TrainConfig
    settings: dict[str, Any]
    gpu: bool
    seconds: float
    bytes: int
    available: int | None

    @property
    def hours(self) -> float:
        """Of the whole training."""
        return self.config.total * self.seconds / 3600

    @property
    def fits(self) -> bool:
        """Whether there is memory enough, as far as is known."""
        return self.available is None or self.bytes <= self.available

    def __str__(self) -> str:
        return f"{_gib(self.bytes)} of {_gib(self.available)} memory"


def needs_trial(config: TrainConfig, free: Collection[str]) -> bool:
    """Whether anything is open that only a trial can tell."""
    open_ = set(free)
    if on_gpu(config):
        return bool({"accumulate", "iterations"} & open_)
    return "iterations" in open_ or {"batch_size", "accumulate"} <= open_


def without_trial(config: TrainConfig, free: Collection[str]) -> dict[str, Any]:
    """What is chosen of the machine alone; `proposed` says why, where anything is."""
    chosen, why = _of_the_machine(config, free)
    return chosen | ({"proposed": tuple(why)} if chosen else {})


def _of_the_machine(config: TrainConfig, free: Collection[str]) -> tuple[dict[str, Any], list[str]]:
    chosen, why = dict[str, Any](), list[str]()
    if on_gpu(config):
        return chosen, why
    if "student" in free and config.student in LIGHTER:
        chosen["student"] = LIGHTER[config.student]
        why.append(f"student {chosen['student']}: there is no GPU, for which {config.student} is.")
    if "workers" in free:
        chosen["workers"] = 0
        why.append("workers 0: they would take cores and memory from the student.")
    return chosen, why


def plan_training(config: TrainConfig, cache: Cache, free: Collection[str] = ()) -> Plan:
    """Choose what is open, and say what the training takes, from a trial of a few images.

    Args:
        config: the training as it would be without a proposal.
        cache: the opened cache that it trains from.
        free: settings that nobody has given, of `OPEN`.

    Raises:
        C2SError: as a training.
    """
    gpu, frames = on_gpu(config), config.method.clip_frames
    chosen, why = _of_the_machine(config, free)
    trial = try_training(_with(config, chosen).resolved(cache.manifest), cache)
    if not gpu and {"batch_size", "accumulate"} <= set(free):
        chosen["batch_size"] = _batch(trial, frames)
        size = _gib(trial.bytes_of(chosen["batch_size"]))
        why.append(f"batch_size {chosen['batch_size']}: {size} of {_gib(trial.available)} memory.")
    elif gpu and "accumulate" in free and (parts := _parts(trial, config.batch_size, frames)) > 1:
        chosen["accumulate"] = parts
        size = _gib(trial.bytes_of(config.batch_size))
        why.append(f"accumulate {parts}: at once, a batch takes {size} of {_gib(trial.available)}.")
    config = _with(config, chosen)
    seconds = config.accumulate * trial.seconds_of(config.batch_size // config.accumulate)
    if "iterations" in free:
        wanted = config.resolved(cache.manifest).total
        scheduled = "iterations" in config.method.by_dataset.get(cache.manifest.dataset, {})
        most = None if scheduled else PASSES * cache.manifest.rows
        count, reason = _iterations(wanted, most, config.batch_size, None if gpu else seconds)
        if reason is not None:
            chosen["iterations"] = count
            why.append(f"iterations {count}: {reason}.")
    if chosen:
        chosen["proposed"] = tuple(why)
    return Plan(
        _with(config, chosen).resolved(cache.manifest),
        chosen,
        gpu,
        seconds,
        trial.bytes_of(config.batch_size // config.accumulate),
        trial.available,
    )


def _with(config: TrainConfig, chosen: dict[str, Any]) -> TrainConfig:
    return config.model_copy(update=chosen)


def _batch(trial: Trial, frames: int) -> int:
    """The first of the batches that fits, in whole clips; the last one where none does."""
    batches = [max(n // frames, 1) * frames for n in BATCHES]
    if trial.available is None:
        return batches[-1]
    room = SHARE * trial.available
    return next((n for n in batches if trial.bytes_of(n) <= room), batches[-1])


def _parts(trial: Trial, batch_size: int, frames: int) -> int:
    """Micro-batches of which each fits; 1 where the whole batch does, and as many as images, or clips, where none
    does."""
    fitting = (
        parts
        for parts in range(1, batch_size // frames + 1)
        if batch_size % (parts * frames) == 0
        and trial.bytes_of(batch_size // parts) <= SHARE * (trial.available or math.inf)
    )
    return next(fitting, batch_size // frames)


def _iterations(
    wanted: int, most: int | None, batch_size: int, seconds: float | None
) -> tuple[int, str | None]:
    """Iterations, and why there are fewer than by default: of `most` images in all, or of so many seconds each."""
    found, reason = wanted, None
    if most is not None and (passes := max(math.ceil(most / batch_size), FEWEST)) < found:
        found = passes
        reason = (
            f"{PASSES} passes over {most // PASSES:,} images, in place of {wanted:,} iterations"
        )
    if seconds is not None and (night := max(round(HOURS * 3600 / seconds), FEWEST)) < found:
        found, reason = night, f"{HOURS} hours at {seconds:.2g} s each, in place of {wanted:,}"
    return found, reason


def _gib(size: int | None) -> str:
    return "unknown" if size is None else f"{size / GIB:.1f} GiB"
