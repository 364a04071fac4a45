"""Invariant: a teacher's family follows from its name, and is looked up here alone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from importlib.metadata import entry_points
from typing import Any

import torch

from c2s_cache import ConfigError
from c2s_cache.plugins import CODE, imported, loaded
from c2s_pipeline.teachers.base import Teacher, TeacherSpec, TextEncoder
from c2s_pipeline.teachers.clip_names import check_names
from c2s_pipeline.teachers.open_clip_teacher import OpenClipTeacher
from c2s_pipeline.teachers.paired import PairedTeacher
from c2s_pipeline.teachers.transformers_teacher import TransformersTeacher, is_transformers

GROUP = "c2s.teachers"


def load_teacher(
    spec: TeacherSpec, device: str | torch.device = "cpu", pool: Executor | None = None
) -> Teacher:
    """Load a teacher.

    Args:
        spec: what to load.
        device: torch device.
        pool: threads among which a CPU shares out a batch; None: it is computed here.

    Raises:
        ConfigError: there is no teacher of that name, or it cannot give what is asked.
        MissingExtra: its library is not installed.
        C2SError: its weights cannot be loaded or downloaded.
    """
    if spec.mask_teacher is None:
        return _family(spec)(spec, torch.device(device), pool)
    alone = replace(spec, mask_teacher=None, dense_size=None, dense_features="plain")
    return PairedTeacher(*(load_teacher(one, device, pool) for one in (alone, spec.mask_teacher)))


def load_text_encoder(spec: TeacherSpec, device: str | torch.device = "cpu") -> TextEncoder:
    """Load the text tower of a teacher, without its image tower where the family can do so.

    Raises:
        ConfigError, MissingExtra, C2SError: as `load_teacher`; or it has none.
    """
    spec = replace(spec, mask_teacher=None)
    family = _family(spec)
    alone: Callable[..., TextEncoder] | None = getattr(family, "load_text", None)
    if alone is None:
        return family(spec, torch.device(device), None).text
    return alone(spec, torch.device(device))


def _family(spec: TeacherSpec) -> Callable[..., Teacher]:
    """What makes the teacher of that name: code of the user's own, a plug-in, or a family of open_clip's models."""
    if spec.name.startswith(CODE):
        return _checked(imported(spec.name, "teacher"), spec.name)
    for entry in entry_points(group=GROUP, name=spec.name.partition(":")[0]):
        return _checked(loaded(entry, "teacher"), entry.value)
    if is_transformers(spec.name):
        return TransformersTeacher
    check_names(spec.name, spec.pretrained)
    return OpenClipTeacher


def _checked(found: Any, reference: str) -> Callable[..., Teacher]:
    lacks = [name for name in ("info", "embed_images", "dense") if not hasattr(found, name)]
    if not isinstance(found, type) or lacks:
        raise ConfigError(
            f"{reference} is no class of teachers: it has no {', '.join(lacks) or 'instances'}.",
            "See c2s_pipeline.teachers.base.Teacher.",
        )
    family: Callable[..., Teacher] = found
    return family
