"""Invariant: a checkpoint is found whole, wherever writing the next one stopped, with the bytes that were saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from c2s.runs.sealed import read_sealed
from c2s.runs.tensors import difference, require_finite
from c2s.tensor_file import load_sealed
from c2s_cache.errors import C2SError
from c2s_cache.fingerprint import file_digest

CONFIG = "config.yaml"
HALFWAY = "halfway/student.safetensors"
"""Student of an inductive run at half its schedule, from which self-training starts."""
STATE, STUDENT = "state.json", "student.safetensors"
FROZEN = "frozen.safetensors"
"""Of a run: those tensors of its student that never change, which no checkpoint repeats."""


class RunError(C2SError):
    """A run folder is missing, damaged, unfinished, or in the way."""


class State(BaseModel):
    """Contents of a checkpoint's `state.json`.

    Attributes:
        format: of the checkpoint.
        step: iterations it has seen.
        complete: whether nothing is left to train.
        student: what the names of the student's tensors begin with in Lightning's own checkpoint.
        config: the settings that it was trained with, as JSON values; None where no run saved it.
        files: SHA-256 of its files of tensors, by name; empty in a checkpoint of an earlier version.
        checkpoint: Lightning's own, without its tensors.
    """

    model_config = ConfigDict(frozen=True)

    format: int
    step: int = Field(ge=0)
    complete: bool = False
    student: str = ""
    config: dict[str, Any] | None = None
    files: dict[str, str] = {}
    checkpoint: dict[str, Any] = {}


def anew(path: Path, damaged: Path | None = None) -> str:
    """The next command for a run that cannot be used: the same again, under another name.

    Args:
        path: the run folder.
        damaged: the file of it that is.
    """
    settings = path / CONFIG
    whole = settings != damaged and settings.is_file()
    return f"Train it again: c2s train {f'--config {settings}' if whole else '--cache PATH'} --name NEW"


def checkpoint_folder(path: Path) -> Path:
    """Folder of the newest whole checkpoint; a swap cut short leaves it under another name."""
    for name in ("checkpoint", "checkpoint.new", "checkpoint.old"):
        if (path / name / STATE).is_file():
            return path / name
    return path / "checkpoint"


def read_state(path: Path) -> State:
    """State of a run's checkpoint.

    Raises:
        RunError: there is none, or it is damaged.
    """
    file = checkpoint_folder(path) / STATE
    if not file.is_file():
        raise RunError(
            f"{path} has no checkpoint yet.",
            f"Start it anew: c2s train --config {path / CONFIG} --runs {path.parent} --name {path.name} --overwrite",
        )
    try:
        return State.model_validate(read_sealed(file))
    except (OSError, ValueError) as error:
        raise RunError(f"{file} is damaged or was edited.", anew(path)) from error


def saved_step(path: Path) -> int | None:
    """Iterations that the run's checkpoint has seen; None without a checkpoint."""
    try:
        return read_state(path).step
    except RunError:
        return None


def load_tensors(
    run: Path, file: Path, sha256: str | None = None, hint: str | None = None
) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file of a run, on the CPU.

    Args:
        run: folder of the run.
        file: the file.
        sha256: the file's when it was written, if that is known.
        hint: the next command where it cannot be used; default: to train the run again.

    Raises:
        RunError: missing, damaged, or another file.
        NotFinite: a value is nan or infinite.
    """
    hint = hint or anew(run)
    if not file.is_file():
        raise RunError(f"{file} is missing.", hint)
    if sha256 is not None and sha256 != file_digest(file):
        raise RunError(f"{file} is not the file that was saved.", hint)
    try:
        tensors = load_sealed(file) if sha256 is None else load_file(file)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{file} is damaged ({error}).", hint) from error
    require_finite(tensors, str(file), hint)  # what is saved is: it was damaged since
    return tensors


def load_student(
    run: Path, file: Path, sha256: str | None = None, frozen_sha256: str | None = None
) -> dict[str, torch.Tensor]:
    """All tensors of a run's student, from a file of those that are trained.

    Args:
        run: folder of the run.
        file: of the trained ones.
        sha256, frozen_sha256: of that file, and of the one of the frozen ones, if they are known.

    Raises:
        RunError, NotFinite: as for `load_tensors`.
    """
    known = frozen_sha256 is not None or (run / FROZEN).is_file()
    frozen = load_tensors(run, run / FROZEN, frozen_sha256) if known else {}
    return load_tensors(run, file, sha256) | frozen


def frozen_names(run: Path) -> set[str]:
    """Names of the tensors that a run stores once."""
    if not (run / FROZEN).is_file():
        return set()
    with safe_open(run / FROZEN, "pt") as file:
        return set(file.keys())


def load_weights(
    module: nn.Module, state: Mapping[str, torch.Tensor], run: Path, source: Path
) -> None:
    """Fill a module, every parameter and persistent buffer, with what a file of a run holds.

    Raises:
        RunError: names or shapes differ.
    """
    wrong = difference(module.state_dict(), state)
    if wrong is not None:
        raise RunError(
            f"{source} does not fit the {type(module).__name__} of its configuration: {wrong}.",
            anew(run),
        )
    module.load_state_dict(dict(state))
