"""Which run a self-training starts from, and what it takes over.

The protocol of the ZegCLIP family: the inductive run's student at half its schedule, then half as many
iterations with a fresh optimizer and schedule, the names of the unseen classes known.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from c2s.runs.checkpoint import HALFWAY, RunError, load_student
from c2s.runs.folder import read_config, read_info
from c2s_cache.errors import ConfigError
from c2s_cache.manifest import Manifest

OWN = ("name", "runs", "weights", "warmup", "iterations", "self_train")
"""Settings that a self-training does not take over."""


def inherited(run: Path, allow_code: bool = False) -> dict[str, Any]:
    """Settings of the inductive run that its self-training starts from, as defaults.

    Raises:
        RunError: `run` is no run folder.
        ConfigError: it is a self-training itself.
    """
    config = read_config(run, allow_code=allow_code)
    if config.self_train is not None:
        raise ConfigError(
            f"{run} is a self-training already; start from the inductive run {config.self_train}."
        )
    kept = config.model_dump(exclude=set(OWN))
    return {**kept, "iterations": max(1, config.total // 2), "name": f"{run.resolve().name}-st"}


def halfway_student(run: Path, manifest: Manifest) -> dict[str, Tensor]:
    """Weights of the student at half the schedule of an inductive run.

    Args:
        run: its folder.
        manifest: of the cache that the self-training reads.

    Raises:
        RunError: no such run, it has not come that far, or it is of other classes or another teacher.
        ConfigError: there is nothing unseen.
    """
    info = read_info(run)
    if not manifest.unseen:
        raise ConfigError(f"{manifest.dataset} has no unseen class to train on by itself.")
    ours = (manifest.classes, manifest.unseen, manifest.teacher.digest)
    if ours != (info.classes, info.unseen, info.teacher.digest):
        raise RunError(f"{run} was trained on other classes or another teacher than the cache has.")
    file = run / HALFWAY
    if not file.is_file():
        raise RunError(
            f"{run} holds no student of half its schedule ({HALFWAY}).",
            f"Let it come that far: c2s train --resume {run}",
        )
    return load_student(run, file)
