"""Invariant: a checkpoint is safetensors and JSON, is replaced as a whole, and resumes exactly.

`checkpoint/student.safetensors` is the student alone; `state.safetensors` holds the method (with
its bank), the optimizer's moments and the random states; `state.json` the iteration, written last.
On a CPU a resumed run equals an uninterrupted one bit for bit; on a GPU as far as its kernels repeat.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from c2s.training.run_folder import (
    HALFWAY,
    RunError,
    checkpoint_folder,
    load_tensors,
    load_weights,
)
from c2s_cache.receipt import sync_directory, write_atomic


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory. `tensors` is the content of state.safetensors."""

    step: int
    student: dict[str, Tensor]
    tensors: dict[str, Tensor]
    scaler: dict[str, Any]


def save(
    run: Path,
    step: int,
    student: nn.Module,
    method: nn.Module,
    optimizer: Optimizer,
    scaler: dict[str, Any],
) -> None:
    """Replace the run's checkpoint. Killed at any instant, the folder still holds a whole one.

    Args:
        run: run folder.
        step: iterations done.
        student, method: the modules; the optimizer's groups must carry `names` of their parameters.
        optimizer: its per-parameter state is stored by parameter name.
        scaler: state of the gradient scaler, JSON values; empty without one.
    """
    tensors = {f"method/{k}": v for k, v in method.state_dict().items()}
    tensors |= {f"optimizer/{k}": v for k, v in _optimizer_state(optimizer).items()}
    tensors |= _random_state()
    new, old, current = run / "checkpoint.new", run / "checkpoint.old", run / "checkpoint"
    keep = checkpoint_folder(run)
    for leftover in (new, old):
        if leftover != keep:
            shutil.rmtree(leftover, ignore_errors=True)
    if keep != current and keep.is_dir():
        keep.rename(current)
    new.mkdir()
    save_file(_plain(student.state_dict()), new / "student.safetensors")
    save_file(_plain(tensors), new / "state.safetensors")
    state = json.dumps({"format": 1, "step": step, "scaler": scaler}) + "\n"
    write_atomic(new / "state.json", state.encode())
    if current.is_dir():
        current.rename(old)
    new.rename(current)
    sync_directory(run)
    shutil.rmtree(old, ignore_errors=True)


def save_halfway(run: Path, student: nn.Module) -> None:
    """Keep the student of half the schedule, beside the checkpoint that goes on changing."""
    file = run / HALFWAY
    file.parent.mkdir(exist_ok=True)
    partial = file.with_suffix(".new")
    save_file(_plain(student.state_dict()), partial)
    partial.replace(file)


def load(run: Path) -> Checkpoint:
    """Read the run's checkpoint.

    Raises:
        RunError: there is none, or it is damaged.
    """
    folder = checkpoint_folder(run)
    try:
        state = json.loads((folder / "state.json").read_bytes())
        step, scaler = int(state["step"]), dict(state["scaler"])
    except (OSError, ValueError, KeyError) as error:
        raise RunError(
            f"{run} has no checkpoint to resume from.", "Start it anew with --overwrite."
        ) from error
    return Checkpoint(
        step,
        load_tensors(folder / "student.safetensors"),
        load_tensors(folder / "state.safetensors"),
        scaler,
    )


def restore_modules(
    checkpoint: Checkpoint, run: Path, student: nn.Module, method: nn.Module
) -> None:
    """Fill student and method, before they move to their device."""
    load_weights(student, checkpoint.student, checkpoint_folder(run) / "student.safetensors")
    state = _under(checkpoint.tensors, "method/")
    load_weights(method, state, checkpoint_folder(run) / "state.safetensors")


def restore_optimizer(checkpoint: Checkpoint, optimizer: Optimizer) -> None:
    """Fill the optimizer's moments; its groups stay as the configuration made them.

    Raises:
        RunError: the checkpoint has state of parameters that the optimizer does not know.
    """
    stored = _under(checkpoint.tensors, "optimizer/")
    state: dict[int, dict[str, Tensor]] = {}
    index = 0
    for group in optimizer.param_groups:
        for name in group["names"]:
            found = _under(stored, f"{name}/")
            if found:
                state[index] = found
            index += 1
    if sum(len(s) for s in state.values()) != len(stored):
        raise RunError("The checkpoint's optimizer state is of another student or method.")
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def restore_random(checkpoint: Checkpoint) -> None:
    """Set torch's random states, on the CPU and on every device the checkpoint knows."""
    torch.set_rng_state(checkpoint.tensors["rng/cpu"])
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            if f"rng/cuda/{i}" in checkpoint.tensors:
                torch.cuda.set_rng_state(checkpoint.tensors[f"rng/cuda/{i}"], i)


def _random_state() -> dict[str, Tensor]:
    states = {"rng/cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"rng/cuda/{i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
    return states


def _optimizer_state(optimizer: Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": value
        for group in optimizer.param_groups
        for name, param in zip(group["names"], group["params"], strict=True)
        for key, value in optimizer.state.get(param, {}).items()
    }


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # safetensors refuses views that share memory or are not contiguous.
    return {k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}
