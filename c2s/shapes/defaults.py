"""Settings of the Shapes world: its own teacher, and what fits its scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from c2s_cache.manifest import TeacherInfo

TEACHER_FOLDER = Path(__file__).parent / "shapes-clip"
TEACHER = f"local-dir:{TEACHER_FOLDER}"
ENCODER = Path(__file__).parent / "shapes-net" / "encoder.safetensors"
"""Weights of the student's encoder, which has seen the seen classes alone."""
BUILD: dict[str, Any] = {
    "teacher": TEACHER,
    "view_size": 64,
    "masks": {"threshold": 0.7},
    "segments": {"fill": "zero", "masking": "frame"},
    "block_rows": 250,
    "batch_size": 25,
}
"""Settings of the Shapes cache; the merging threshold was chosen on the "dev" scenes, and its teacher knows regions on
black in their place."""
TRAIN: dict[str, Any] = {
    "student": "shapes-net",
    "iterations": 300,
    "batch_size": 32,
    "lr": 2e-3,
    "head_lr_mult": 2.0,
    "weight_decay": 0.01,
    "warmup": 30,
    "jitter": False,
    "workers": 0,
    "accelerator": "cpu",
    "checkpoint_every": 100_000,
}
"""Schedule of the Shapes student, which starts from an encoder of its own; nothing of a method."""


WORLD: dict[str, dict[str, Any]] = {
    "shapes": {},
    "shapes-things": {},
    "shapes-renamed": {},
    "shapes-moving": {},
    "shapes-crowded": {"view_size": 96, "dense_size": 96},
}
"""Data sets that are built and trained on with these settings, and where their caches differ."""


def build_defaults(dataset: str, teacher: str | None) -> dict[str, Any]:
    """Build settings that replace the general defaults for a data set.

    Args:
        dataset: data set name.
        teacher: the teacher the user named, if any.
    """
    if dataset not in WORLD or teacher is not None:
        return {}
    return {**BUILD, **WORLD[dataset]}


def own_teacher(name: str) -> str | None:
    """Where the teacher lies that caches and runs, which keep no paths, know by this name; None: it is not ours."""
    return TEACHER if name == f"local-dir:{TEACHER_FOLDER.name}" else None


def own_mask_teacher(info: TeacherInfo) -> str | None:
    """The same of the model that gives the dense features beside a teacher; None also where there is none."""
    return None if info.mask_teacher is None else own_teacher(info.mask_teacher.name)
