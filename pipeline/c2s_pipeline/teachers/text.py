"""Invariant: a class embedding is the mean over templates of unit vectors, normalised again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray

from c2s_cache import ConfigError
from c2s_pipeline.lanes import lanes
from c2s_pipeline.teachers.base import TextEncoder

BATCH = 32
"""Sentences per pass of the text tower."""


def class_embeddings(
    encoder: TextEncoder,
    names: Sequence[str],
    templates: Sequence[str],
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Text embeddings of class names: per template unit norm, mean over templates, unit norm.

    Args:
        encoder: the text tower.
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
    parts = [sentences[i : i + BATCH] for i in range(0, len(sentences), BATCH)]
    with lanes(encoder.device) as pool:
        for number, part in enumerate(pool.map(encoder.embed_text, parts), start=1):
            features.append(part)
            if progress is not None:
                progress(min(number * BATCH, len(sentences)), len(sentences))
        mean = rearrange(torch.cat(features), "(n t) d -> n t d", t=len(templates)).mean(1)
        return torch.nn.functional.normalize(mean, dim=-1).cpu().numpy()
