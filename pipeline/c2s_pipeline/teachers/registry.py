"""Invariant: a teacher's family follows from its name and weights, and is looked up here alone."""

from __future__ import annotations

from concurrent.futures import Executor

import torch

from c2s_pipeline.teachers.base import Teacher, TeacherSpec
from c2s_pipeline.teachers.open_clip_vit import OpenClipViT


def load_teacher(
    spec: TeacherSpec, device: str | torch.device = "cpu", pool: Executor | None = None
) -> Teacher:
    """Load a teacher.

    Args:
        spec: what to load.
        device: torch device.
        pool: threads among which a CPU shares out a batch; None: it is computed here.

    Raises:
        ConfigError: no family has a teacher of that name, or it cannot give what is asked.
        MissingExtra: its library is not installed.
        C2SError: its weights cannot be loaded or downloaded.
    """
    return OpenClipViT(spec, device, pool)
