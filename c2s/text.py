"""Invariant: of the class embeddings in a cache, training gets those that it may know."""

from __future__ import annotations

from typing import Literal

import numpy as np

from c2s.vocabulary import Vocabulary
from c2s_cache.manifest import Manifest
from c2s_cache.reader import Cache

TEXT = "text"
EMBEDDINGS = "text/embeddings"


def cached_text(cache: Cache, which: Literal["seen", "unseen", "all"] = "seen") -> Vocabulary:
    """Classes of a cache with their text embeddings; none of one that has no class names.

    Inductive training asks for the seen ones and gets no others.

    Raises:
        DamagedError: the file differs from its receipt.
    """
    m = cache.manifest
    members = {"seen": m.seen, "unseen": sorted(m.unseen), "all": range(m.num_classes)}
    if EMBEDDINGS not in m.arrays:
        return Vocabulary((), np.zeros((0, m.teacher.dim), np.float32))
    ids = tuple(members[which])
    embeddings = cache.once(EMBEDDINGS)[list(ids)]
    unseen = tuple(i for i in ids if i in m.unseen)
    return Vocabulary(tuple(m.classes[i] for i in ids), embeddings, unseen, ids=ids)


def sentences_of(manifest: Manifest) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Templates and prompts of a cache's class embeddings; neither where they were imported, or there are none."""
    if TEXT not in manifest.stage_names:
        return (), ()
    settings = manifest.stage(TEXT).settings
    if "templates" not in settings:
        return (), ()
    return tuple(settings["templates"]), tuple(settings.get("prompts") or manifest.classes)
