"""Invariant: of the class embeddings in a cache, training gets those that it may know."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from c2s.vocabulary import Vocabulary
from c2s_cache.manifest import Manifest
from c2s_cache.reader import Cache

TEXT = "text"
EMBEDDINGS = "text/embeddings"
WORDS, OF_CLASS, OF_NONE = "words/embeddings", "words/class", -1


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


def cached_words(cache: Cache) -> Vocabulary | None:
    """The seen classes of a cache with all words that stand for each, its name first; None: it has no such stage.

    Raises:
        DamagedError: the file differs from its receipt.
    """
    m = cache.manifest
    if WORDS not in m.arrays:
        return None
    synonyms, (_, prompts) = m.stage("words").settings["synonyms"], sentences_of(m)
    names = tuple((prompts[i], *synonyms.get(m.classes[i], ())) for i in m.seen)
    embeddings, classes = cache.once(WORDS), cache.once(OF_CLASS)
    kept = np.isin(classes, m.seen)
    seen = tuple(m.classes[i] for i in m.seen)
    return Vocabulary(seen, embeddings[kept], names=names, ids=m.seen)


def numbered_words(cache: Cache) -> NDArray[np.float32] | None:
    """Embeddings of all words of a cache as its captions number them, float32 [W, D]; 0 of those that inductive
    training may not know, being of no seen class and not of none. None: it has no such stage.

    Raises:
        DamagedError: the file differs from its receipt.
    """
    if WORDS not in cache.manifest.arrays:
        return None
    known = np.isin(cache.once(OF_CLASS), (*cache.manifest.seen, OF_NONE))
    return np.where(known[:, None], cache.once(WORDS), np.float32(0))


def sentences_of(manifest: Manifest) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Templates and prompts of a cache's class embeddings; neither where they were imported, or there are none."""
    if TEXT not in manifest.stage_names:
        return (), ()
    settings = manifest.stage(TEXT).settings
    if "templates" not in settings:
        return (), ()
    return tuple(settings["templates"]), tuple(settings.get("prompts") or manifest.classes)
