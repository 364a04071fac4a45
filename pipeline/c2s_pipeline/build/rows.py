"""Invariant: which image is which row follows from the data set, the request and what the cache already holds.

A cache only grows: images that came to the data set later are a further part, in blocks of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from c2s_cache import Block, Cache, DamagedError, DataError, MismatchError, Part
from c2s_pipeline.batch import StoredBlock
from c2s_pipeline.build.block import BlockComputer
from c2s_pipeline.build.request import BuildRequest
from c2s_pipeline.source import ImageSource
from c2s_pipeline.stages.registry import recorded_stages
from c2s_pipeline.teachers.registry import load_teacher

NAMED = 5
"""Images that a message names."""


@dataclass(frozen=True)
class Rows:
    """The rows of a cache: its parts, and the image ids of each part in row order."""

    parts: tuple[Part, ...]
    ids: tuple[tuple[str, ...], ...]

    def blocks(self, block_rows: int) -> list[tuple[str, ...]]:
        """Image ids of every block."""
        return [
            ids[first : first + block_rows]
            for ids in self.ids
            for first in range(0, len(ids), block_rows)
        ]


def part_of(source: ImageSource, ids: Sequence[str]) -> Part:
    """What a manifest says of images in this order."""
    return Part(source=source.identity(sorted(ids)), order=_digest(ids), rows=len(ids))


def new_rows(source: ImageSource, request: BuildRequest) -> Rows:
    """The rows of a new cache, of one part.

    Raises:
        DataError: the split is empty.
    """
    if not source.ids:
        raise DataError(f"data set {source.name} has no images in split {source.split!r}.")
    ids = _shuffled(source, source.ids, request.seed, 0)[: request.limit]
    return Rows((part_of(source, ids),), (ids,))


def rows_of(source: ImageSource, request: BuildRequest, out: Path, append: bool) -> Rows:
    """The rows of a cache that is there, with images that came since as a further part.

    Args:
        source: the data set split.
        request: what is to be built.
        out: the cache, its metadata whole.
        append: images that came since are wanted.

    Raises:
        DataError: images of the cache were removed from the data set, or edited; or which images it holds is not
            known, as it was never finished.
        MismatchError: images came, and are not wanted.
    """
    cache = Cache(out)
    m = cache.manifest
    alike = (m.dataset, m.split, m.block_rows, m.seed) == (
        *(source.name, source.split),
        *(request.block_rows, request.seed),
    )
    if not alike or (request.limit is not None and request.limit < m.rows):
        return new_rows(source, request)  # another request, which is refused with the difference
    known = _known(source, cache)
    held = {image_id for ids in known for image_id in ids}
    _require_kept(source, cache, request, known, held)
    count = None if request.limit is None else request.limit - m.rows
    later = _shuffled(source, [i for i in source.ids if i not in held], m.seed, len(known))[:count]
    if not later:
        return Rows(m.parts, known)
    if not append:
        raise MismatchError(
            f"{out} holds {m.rows:,} images, and {len(later):,} came to {source.name}/{source.split} since.",
            "Add them with --append, or choose another --out.",
        )
    return Rows((*m.parts, part_of(source, later)), (*known, later))


def _shuffled(source: ImageSource, ids: Sequence[str], seed: int, part: int) -> tuple[str, ...]:
    """Image ids as rows of a part: shuffled once at write, so that block reads give mixed batches. Frames of a clip
    stay together, in their order."""
    units: list[tuple[str, ...]] = [(image_id,) for image_id in ids]
    if source.clips:
        units = [tuple(frames) for _, frames in groupby(ids, source.clip)]
    order = np.random.default_rng([seed, part]).permutation(len(units))
    return tuple(image_id for i in order for image_id in units[i])


def _known(source: ImageSource, cache: Cache) -> tuple[tuple[str, ...], ...]:
    """Image ids of each part: drawn again where the images of all others are known, else as they are stored.

    Raises:
        DataError: neither is possible.
    """
    m, found = cache.manifest, dict[int, tuple[str, ...]]()

    def drawn(number: int) -> tuple[str, ...] | None:
        others = {image_id for ids in found.values() for image_id in ids}
        rest = [image_id for image_id in source.ids if image_id not in others]
        ids = _shuffled(source, rest, m.seed, number)[: m.parts[number].rows]
        return ids if _digest(ids) == m.parts[number].order else None

    def stored(number: int) -> tuple[str, ...] | None:
        try:
            return tuple(image_id for block in m.blocks_of(number) for image_id in cache.ids(block))
        except DamagedError:  # or not written yet
            return None

    for find in (lambda number: drawn(number) or stored(number), drawn):
        for number in range(len(m.parts)):
            if number not in found and (ids := find(number)) is not None:
                found[number] = ids
    if len(found) < len(m.parts):
        raise DataError(
            f"{cache} was not finished, and {source.name}/{source.split} has other images since.",
            "Finish it with the images that it was begun with, or build another one with another --out.",
        )
    return tuple(found[number] for number in range(len(m.parts)))


def _require_kept(
    source: ImageSource,
    cache: Cache,
    request: BuildRequest,
    known: Sequence[Sequence[str]],
    held: set[str],
) -> None:
    """Refuse images of a cache that the data set no longer has, or has otherwise."""
    where = f"{cache} holds {len(held):,} images of {source.name}/{source.split}"
    hint = (
        "A cache only grows: put them back as they were, or build another one with another --out."
    )
    if gone := held.difference(source.ids):
        raise DataError(f"{where}, and {_named(gone)} no longer there.", hint)
    parts = zip(cache.manifest.parts, known, strict=True)
    if any(source.identity(sorted(ids)) != part.source for part, ids in parts):
        edited = list(_edited(source, cache, request))
        what = f"{_named(edited)} not as they were" if edited else "their files were edited"
        raise DataError(f"{where}, and {what}.", hint)


def _edited(source: ImageSource, cache: Cache, request: BuildRequest) -> Iterator[str]:
    """Images of a cache that the data set gives otherwise than they are stored, or that can be used only now."""
    m = cache.manifest
    stages = recorded_stages(m).values()
    names = [stage.name for stage in stages if stage.sourced and stage.wanted(source)]
    paths = [path for name in names for path in m.stage(name).arrays]
    items = set(paths) - {m.arrays[path].end for path in paths}
    computer = BlockComputer(m, source, lambda: load_teacher(request.spec))
    for number in sorted(set.intersection(*(set(cache.written(name)) for name in names))):
        ids, start = cache.ids(number), m.block_range(number).start
        made = computer.compute(ids, start, names, StoredBlock(cache, number, names)).stages
        anew = Block(m, start, {p: v for arrays in made.values() for p, v in arrays.items()})
        stored = cache.read_block(number, paths)
        for at, image_id in enumerate(ids):
            if not all(np.array_equal(anew.item(p, at), stored.item(p, at)) for p in items):
                yield image_id


def _digest(ids: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def _named(ids: Iterable[str]) -> str:
    """How many images, some by name, and the verb that goes on."""
    names = sorted(ids)
    more = len(names) - NAMED
    shown = ", ".join(names[:NAMED]) + (f" and {more:,} more" if more > 0 else "")
    return f"{len(names):,} of them ({shown}) {'is' if len(names) == 1 else 'are'}"
