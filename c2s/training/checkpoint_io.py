"""Invariant: a checkpoint is safetensors and JSON, is replaced as a whole, and resumes exactly.

It is Lightning's own checkpoint in another container. `checkpoint/student.safetensors` is the student
alone, the averaged one where weights are averaged; `state.safetensors` holds all other tensors (the
method with its bank, the optimizer's moments, the student that is trained on where another one is
saved); `state.json` the rest, written last. On a CPU a resumed run equals an uninterrupted one bit for
bit; on a GPU as far as its kernels repeat.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from lightning_fabric.plugins.io import CheckpointIO
from torch import Tensor, nn

from c2s.runs.checkpoint import (
    HALFWAY,
    STATE,
    RunError,
    anew,
    checkpoint_folder,
    frozen_names,
    load_student,
    load_tensors,
    read_state,
)
from c2s.runs.checkpoint import STUDENT as STUDENT_FILE
from c2s.runs.sealed import write_sealed
from c2s.runs.tensors import write_tensors
from c2s_cache.fingerprint import file_digest
from c2s_cache.receipt import sync_directory

FORMAT = 2
OTHERS_FILE = "state.safetensors"
STUDENT, AVERAGED = "state_dict/student.", "state_dict/averaged.module."
TENSOR, ITEMS = "$tensor", "$items"
"""Marks, in the JSON, of a tensor (by its name) and of a mapping whose keys are no texts."""


class SafetensorsIO(CheckpointIO):
    """Reads and writes the checkpoints of a Trainer in the folder `checkpoint` of a run."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Replace the checkpoint. Killed at any instant, the folder still holds a whole one.

        Args:
            checkpoint: Lightning's: nested dicts and lists of tensors and JSON values.
            path: RUN/checkpoint.
            storage_options: unused.

        Raises:
            TypeError: it holds something else.
            NotFinite: a tensor is not finite; the checkpoint before stays.
            OSError: it cannot be written; the checkpoint before stays.
        """
        run = Path(path).parent
        tensors: dict[str, Tensor] = {}
        facts = {key: checkpoint.get(key) for key in ("complete", "config")}
        skeleton = _split({k: v for k, v in checkpoint.items() if k not in facts}, "", tensors)
        for name in frozen_names(run):
            tensors.pop(STUDENT + name, None)
            tensors.pop(AVERAGED + name, None)
        prefix = AVERAGED if any(k.startswith(AVERAGED) for k in tensors) else STUDENT
        student = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
        others = {k: v for k, v in tensors.items() if not k.startswith(prefix)}
        state = {
            "format": FORMAT,
            "step": checkpoint["global_step"],
            "complete": bool(facts["complete"]),
            "student": prefix,
            "config": facts["config"],
            "checkpoint": skeleton,
        }
        new, old, current = run / "checkpoint.new", run / "checkpoint.old", run / "checkpoint"
        keep = checkpoint_folder(run)
        for leftover in (new, old):
            if leftover != keep:
                shutil.rmtree(leftover, ignore_errors=True)
        if keep != current and keep.is_dir():
            keep.rename(current)
            sync_directory(run)
        new.mkdir()
        try:
            write_tensors(new / STUDENT_FILE, student)
            write_tensors(new / OTHERS_FILE, others)
            state["files"] = {n: file_digest(new / n) for n in (STUDENT_FILE, OTHERS_FILE)}
            write_sealed(new / STATE, state)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        # From here on the new one is whole: wherever this stops, one of the two is found.
        if current.is_dir():
            current.rename(old)
        new.rename(current)
        sync_directory(run)
        shutil.rmtree(old, ignore_errors=True)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """What was saved, with all tensors on the CPU.

        Raises:
            RunError: there is none, it is damaged, or of an earlier version.
        """
        run = Path(path).parent
        state, folder = read_state(run), checkpoint_folder(run)
        if state.format != FORMAT:
            raise RunError(
                f"The checkpoint of {run} is of format {state.format}, expected {FORMAT}: it can be "
                "evaluated, not continued.",
                anew(run),
            )
        tensors = load_tensors(run, folder / OTHERS_FILE, state.files.get(OTHERS_FILE))
        student = load_student(run, folder / STUDENT_FILE, state.files.get(STUDENT_FILE))
        tensors |= {state.student + k: v for k, v in student.items()}
        tensors |= {STUDENT + k: student[k] for k in frozen_names(run)}
        try:
            joined: dict[str, Any] = _join(state.checkpoint, tensors)
        except KeyError as error:
            raise RunError(f"{folder} lacks the tensor {error}.", anew(run)) from error
        return joined

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete it."""
        shutil.rmtree(path)


def save_halfway(run: Path, student: nn.Module) -> None:
    """Keep the student of half the schedule, beside the checkpoint that goes on changing.

    Raises:
        NotFinite: it is not finite; nothing is written.
        OSError: it cannot be written.
    """
    file = run / HALFWAY
    file.parent.mkdir(exist_ok=True)
    frozen = frozen_names(run)
    write_tensors(file, {k: v for k, v in student.state_dict().items() if k not in frozen})
    sync_directory(run)


def _split(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The value with tensors replaced by their names, which are their paths in it."""
    if isinstance(value, Tensor):
        if name in tensors:  # a/b beside a with an inner b
            name = f"{name}#{len(tensors)}"
        tensors[name] = value
        return {TENSOR: name}
    if isinstance(value, dict):
        inner = [(k, _split(v, f"{name}/{k}".lstrip("/"), tensors)) for k, v in value.items()]
        return dict(inner) if all(isinstance(k, str) for k in value) else {ITEMS: inner}
    if isinstance(value, (list, tuple)):
        return [_split(v, f"{name}/{i}", tensors) for i, v in enumerate(value)]
    return value


def _join(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Inverse of `_split`; tuples come back as lists."""
    if isinstance(value, list):
        return [_join(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {TENSOR}:
        return tensors[value[TENSOR]]
    if value.keys() == {ITEMS}:
        return {k: _join(v, tensors) for k, v in value[ITEMS]}
    return {k: _join(v, tensors) for k, v in value.items()}
