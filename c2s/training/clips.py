"""Invariant: frames go together only where a cache says that they are of one clip, and where they follow each other."""

from __future__ import annotations

import numpy as np

from c2s.methods.examples import CLIP
from c2s_cache.errors import CacheError
from c2s_cache.manifest import USABLE
from c2s_cache.reader import Cache


def clips_of(cache: Cache, frames: int) -> tuple[tuple[int, ...], ...]:
    """By block, how many of its usable rows are frames of the first clip, of the next one, ...

    Args:
        cache: an open cache.
        frames: that are to go together.

    Raises:
        CacheError: the cache does not say of which clip a row is, the frames of a clip lie apart in it, or no clip has
            as many frames in a block.
    """
    m, found = cache.manifest, []
    if CLIP not in m.arrays:
        raise CacheError(
            f"{cache} lacks the stage {CLIP.partition('/')[0]}, which says what rows are the {frames} frames of a clip "
            f"that are to go together (method.frames={frames}).",
            f"If {m.dataset} has clips, add it: c2s cache build --dataset {m.dataset} --out {cache} --method gkc "
            "--update; else train with --set method.frames=1.",
        )
    clip, usable = cache.column(CLIP), cache.column(USABLE)
    for block in range(m.blocks):
        rows = m.block_range(block)
        clips = clip[rows.start : rows.stop][usable[rows.start : rows.stop]]
        edges = np.flatnonzero(np.diff(clips)) + 1
        lengths = np.diff([0, *edges, len(clips)])[: len(clips)]
        if len(lengths) > len(np.unique(clips)):
            raise CacheError(
                f"the frames of a clip lie apart in block {block} of {cache}: an earlier version has shuffled them.",
                f"Build another one: c2s cache build --dataset {m.dataset} --out NEW --method gkc",
            )
        found.append(tuple(lengths.tolist()))
    most = max((length for lengths in found for length in lengths), default=0)
    if most < frames:
        raise CacheError(
            f"no clip of {cache} has {frames} usable frames in one block (method.frames={frames}): at most {most}.",
            "Let fewer go together, or build another one with a larger --block-rows.",
        )
    return tuple(found)
