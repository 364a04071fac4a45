"""Invariant: a class embedding is the mean over templates of unit vectors, normalised again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray

from c2s_cache import ConfigError
from c2s_pipeline.lanes import lanes
from c2s_pipeline.teachers.base import Teacher, TeacherSpec
from c2s_pipeline.teachers.clip_names import Activation, default_pretrained
from c2s_pipeline.teachers.registry import load_teacher
from c2s_pipeline.teachers.templates import SINGLE

BATCH = 32
"""Sentences per pass of the text tower."""


def class_embeddings(
    teacher: Teacher,
    names: Sequence[str],
    templates: Sequence[str],
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Text embeddings of class names: per template unit norm, mean over templates, unit norm.

    Args:
        teacher: the CLIP model.
        names: class names.
        templates: sentences with one `{}` each.
        progress: called with (sentences done, sentences) after each batch.

    Returns:
        float32 [len(names), D].
    """
    if not all(t.count("{}") == 1 for t in templates):
        raise ConfigError("every prompt template must hold one {} for the class name.")
    sentences = [t.format(n) for n in names for t in templates]
    features = []
    with lanes(teacher.device) as pool:
        parts = torch.split(teacher.tokens(sentences), BATCH)
        for number, part in enumerate(pool.map(teacher.text_features, parts), start=1):
            features.append(part)
            if progress is not None:
                progress(min(number * BATCH, len(sentences)), len(sentences))
        mean = rearrange(torch.cat(features), "(n t) d -> n t d", t=len(templates)).mean(1)
        return torch.nn.functional.normalize(mean, dim=-1).cpu().numpy()


def embed_names(
    teacher_name: str,
    pretrained: str | None,
    names: Sequence[str],
    templates: Sequence[str] = SINGLE,
    digest: str | None = None,
    activation: Activation | None = None,
) -> NDArray[np.float32]:
    """Load a teacher's text tower once and embed class names, float32 [n, D] of unit norm.

    Raises:
        ConfigError: the weights found under that name are not those of `digest`, or the model
            computes another activation.
    """
    weights = pretrained or default_pretrained(teacher_name)
    teacher = load_teacher(TeacherSpec(teacher_name, weights, activation=activation))
    found = teacher.info()
    if digest is not None and found.digest != digest:
        raise ConfigError(
            f"the weights of teacher {teacher_name} are not those that the run was trained with."
        )
    if activation is not None and found.activation != activation:
        raise ConfigError(
            f"teacher {teacher_name} computes {found.activation} here; the run was trained with {activation}."
        )
    return class_embeddings(teacher, names, templates)
