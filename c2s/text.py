"""Invariant: of the class embeddings in a cache, training gets those that it may know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from c2s_cache.manifest import Manifest
from c2s_cache.reader import Cache

TEXT = "text"
EMBEDDINGS = "text/embeddings"


@dataclass(frozen=True)
class TextEmbeddings:
    """Unit-norm text embeddings: `class_ids` int64 [n], `names`, `embeddings` float32 [n, D]."""

    class_ids: NDArray[np.int64]
    names: tuple[str, ...]
    embeddings: NDArray[np.float32]


def cached_text(cache: Cache, which: Literal["seen", "unseen", "all"] = "seen") -> TextEmbeddings:
    """Class text embeddings of a cache; none of one that has no class names. Inductive training asks for the seen
    ones and gets no others.

    Raises:
        DamagedError: the file differs from its receipt.
    """
    m = cache.manifest
    members = {"seen": m.seen, "unseen": sorted(m.unseen), "all": range(m.num_classes)}
    ids = np.asarray(members[which], dtype=np.int64)
    if EMBEDDINGS not in m.arrays:
        return TextEmbeddings(ids[:0], (), np.zeros((0, m.teacher.dim), np.float32))
    embeddings: NDArray[np.float32] = cache.once(EMBEDDINGS)[ids]
    return TextEmbeddings(ids, tuple(m.classes[i] for i in ids), embeddings)


def sentences_of(manifest: Manifest) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Templates and prompts of a cache's class embeddings; neither where they were imported, or there are none."""
    if TEXT not in manifest.stage_names:
        return (), ()
    settings = manifest.stage(TEXT).settings
    if "templates" not in settings:
        return (), ()
    return tuple(settings["templates"]), tuple(settings.get("prompts") or manifest.classes)
