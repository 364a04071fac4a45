"""Settings of the Shapes world: its own teacher, and what fits its scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TEACHER_FOLDER = Path(__file__).parent / "teacher"
TEACHER = f"local-dir:{TEACHER_FOLDER}"
BUNDLED = f"local-dir:{TEACHER_FOLDER.name}"
"""Its name in caches and runs, which keep no paths."""
BUILD: dict[str, Any] = {
    "teacher": TEACHER,
    "view_size": 64,
    "masks": {"threshold": 0.7},
    "block_rows": 250,
    "batch_size": 50,
}
"""Settings of the Shapes cache; the merging threshold was chosen on the "dev" scenes."""


def build_defaults(dataset: str, teacher: str | None) -> dict[str, Any]:
    """Build settings that replace the general defaults for a data set.

    Args:
        dataset: data set name.
        teacher: the teacher the user named, if any.
    """
    if dataset != "shapes" or teacher is not None:
        return {}
    return BUILD


def own_teacher(dataset: str, name: str) -> str | None:
    """Where the teacher of a Shapes cache lies, if it was the demo's own; a manifest holds no paths."""
    return TEACHER if (dataset, name) == ("shapes", f"local-dir:{TEACHER_FOLDER.name}") else None


def train_defaults(dataset: str, student: str | None) -> dict[str, Any]:
    """Training settings that replace the general defaults for a cache's data set.

    Args:
        dataset: data set name.
        student: the student the user named, if any.
    """
    if dataset != "shapes" or student not in (None, "shapes-net"):
        return {}
    from c2s.demo.recipe import METHOD, TRAIN

    return {**TRAIN, "method": METHOD}
