"""Invariant: verification trusts nothing but the receipts and re-reads every byte."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from c2s_cache.block import Block
from c2s_cache.errors import CacheError, DamagedError
from c2s_cache.lock import LOCK, OWNER
from c2s_cache.reader import Cache
from c2s_cache.receipt import METADATA, receipt_path
from c2s_cache.schema import array_specs

UNNAMED = "a file that no receipt names"
"""What is found of a file that is no part of a cache."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: which check, where, what."""

    check: str
    where: str
    what: str


@dataclass(frozen=True)
class Content:
    """What must hold of the values of a cache, beyond their digests.

    Attributes:
        paths: arrays whose values are looked at.
        inspect: what is wrong in a block, which was read of them; arrays that are computed once come with block 0.
    """

    paths: frozenset[str] = frozenset()
    inspect: Callable[[Block], Iterable[Finding]] = lambda block: ()


def verify(
    cache: Cache,
    content: Content = Content(),
    progress: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """Check a whole cache without a teacher: structure, completeness, checksums, and its content.

    Args:
        cache: an opened cache (`Cache(path)`, complete or not).
        content: what its stages say of their values.
        progress: called with (blocks done, blocks) after each block.

    Returns:
        All findings; an empty list means the cache is whole and sound.

    Raises:
        CacheError: it cannot be reached, or a receipt is damaged.
    """
    cache = Cache(cache.address)  # what another reader has proven does not count
    there = cache.folder.sizes()
    damage = [*_metadata(cache), *_structure(cache), *_strays(cache, there), *_completeness(cache)]
    blocks = sorted({block for stage, block in cache.receipts if stage != METADATA})
    for done, block in enumerate(blocks, 1):
        finished = all((s, block) in cache.receipts for s in cache.manifest.stages_of(block))
        damage += _content(cache, block, content) if finished else _checksums(cache, block)
        if progress is not None:
            progress(done, len(blocks))
    return damage


def _metadata(cache: Cache) -> Iterator[Finding]:
    receipt = cache.receipts.get((METADATA, 0))
    if receipt is None:
        yield Finding("complete", METADATA, "no receipt: the cache was never fully created")
        return
    for name, found in cache.folder.digests(receipt.files):
        if found != receipt.files[name].sha256:
            yield Finding("checksum", name, "metadata differ from the receipt or are missing")


def _structure(cache: Cache) -> Iterator[Finding]:
    """Shape, type, axes and shards of every array, as SPEC.md has them for this manifest."""
    try:
        metadata = cache.arrays.metadata
    except CacheError as error:
        yield Finding("structure", "zarr.json", error.what)
        return
    for spec in array_specs(cache.manifest):
        if (m := metadata.get(spec.path)) is None:
            yield Finding("structure", spec.path, "the array is missing")
            continue
        have = (m.shape, str(m.dtype.to_native_dtype()), m.shards, m.dimension_names)
        want = (spec.shape, spec.dtype, spec.shards, spec.dims)
        if have != want:
            yield Finding("structure", spec.path, f"is {have}, expected {want}")


def _strays(cache: Cache, there: Iterable[str]) -> Iterator[Finding]:
    known = {name for receipt in cache.receipts.values() for name in receipt.files}
    known |= {receipt_path(Path(), *key).as_posix() for key in cache.receipts}
    known |= {"provenance.jsonl", OWNER}
    for name in sorted(set(there) - known):
        if name.startswith(LOCK):
            continue  # of a build that was killed, like the owner's token
        yield Finding("structure", name, UNNAMED)


def _completeness(cache: Cache) -> Iterator[Finding]:
    """Receipts that are missing or of another request; a run of missing ones is one finding."""
    for stage in cache.manifest.stages:
        written = cache.written(stage.name)
        end = 1 if stage.once else cache.blocks
        for before, after in pairwise([-1, *written, end]):
            if after > before + 1:
                last = f"-{after - 1}" if after > before + 2 else ""
                where = f"{stage.name}/{before + 1}{last}"
                yield Finding("complete", where, "no receipt: this stage was never finished")
        for block in written:
            wanted = cache.manifest.fingerprint(stage.name, block)
            if cache.receipts[stage.name, block].fingerprint != wanted:
                what = "the receipt belongs to another request"
                yield Finding("complete", f"{stage.name}/{block}", what)


def _checksums(cache: Cache, block: int, proven: Container[str] = ()) -> Iterator[Finding]:
    """Files of a block that are not those of its receipts; arrays whose files were proven are left out."""
    receipts = (cache.receipts.get((s, block)) for s in cache.manifest.stages_of(block))
    records = {name: r for receipt in receipts if receipt for name, r in receipt.files.items()}
    names = [name for name in records if name.partition("/c/")[0] not in proven]
    for name, found in cache.folder.digests(names):
        if found is None:
            yield Finding("checksum", name, "file is missing")
        elif found != records[name].sha256:
            yield Finding("checksum", name, "bytes differ from the receipt")


def _content(cache: Cache, block: int, content: Content) -> Iterator[Finding]:
    m = cache.manifest
    once = {path for stage in m.stages if stage.once for path in stage.arrays}
    paths = {p for p in content.paths & m.arrays.keys() if block == 0 or p not in once}
    try:
        data = cache.read_block(block, paths)
    except DamagedError as error:
        yield from list(_checksums(cache, block)) or [Finding("read", f"block {block}", error.what)]
        return
    yield from _checksums(cache, block, data.arrays)
    try:
        yield from content.inspect(data)
    except (ValueError, LookupError, TypeError) as error:
        yield Finding("read", f"block {block}", f"its arrays do not fit together: {error}")
