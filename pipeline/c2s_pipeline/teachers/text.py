"""Invariant: a class embedding is the mean over templates of unit vectors, normalised again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray

from c2s_cache import ConfigError
from c2s_cache.text_rows import SAME
from c2s_pipeline.lanes import lanes
from c2s_pipeline.teachers.base import TextEncoder

BATCH = 32
"""Sentences per pass of the text tower."""
NOWHERE = "\U0010fffd"
"""Of no script: a text tower that knows whole words reads it as any word that it does not know."""
LONGEST = 4
"""Sentences, the longest first, that are tried at a time for whether they are cut."""


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


def cut_names(encoder: TextEncoder, names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Names of which the text tower does not read all: a further word behind their sentence changes nothing.

    Args:
        encoder: the text tower. One that takes "a a" for "a" does not show whether it cuts.
        names: class names; of many, the longest are tried until some are read whole.
        templates: sentences with one `{}` each, of which the longest counts.
    """
    template = max(templates, key=lambda t: len(t.encode()))
    by_length = sorted(names, key=lambda name: -len(name.encode()))
    cut: list[str] = []
    for start in range(0, len(by_length), LONGEST):
        tried = by_length[start : start + LONGEST]
        sentences = [*(template.format(name) for name in tried), "a"]
        longer = encoder.embed_text([f"{sentence} a" for sentence in sentences])
        *same, blind = ((encoder.embed_text(sentences) - longer).norm(dim=1) <= SAME).tolist()
        found = (
            []
            if blind
            else [name for name, as_before in zip(tried, same, strict=True) if as_before]
        )
        if not found:
            break
        cut += found
    return cut


def say_cut(encoder: TextEncoder, names: Sequence[str], templates: Sequence[str]) -> None:
    """Say on stderr which names the text tower does not read whole."""
    cut = cut_names(encoder, names, templates)
    if cut:
        more = len(cut) - 1
        others = f" and of {more} other{'s' * (more > 1)}" if more else ""
        print(
            f"note: the text tower reads only the beginning of the class name {cut[0][:80]!r}{others}; "
            "what follows has no effect.",
            file=sys.stderr,
        )


def say_unknown(
    encoder: TextEncoder,
    names: Sequence[str],
    templates: Sequence[str],
    rows: NDArray[np.floating],
) -> None:
    """Say on stderr which names the text tower has no word for.

    Args:
        encoder: the text tower.
        names: class names.
        templates: sentences with one `{}` each.
        rows: float [len(names), D], their embeddings.
    """
    nothing = class_embeddings(encoder, [NOWHERE], templates)[0]
    far = np.linalg.norm(rows - nothing, axis=1)
    unknown = [name for name, distance in zip(names, far, strict=True) if distance <= SAME]
    if unknown:
        print(
            f"note: the text tower does not know {', '.join(unknown)}, which means as much to it as no word.",
            file=sys.stderr,
        )
