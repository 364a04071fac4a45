"""Invariant: verification trusts nothing but the receipts and re-reads every byte."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from c2s_cache.block import Block
from c2s_cache.errors import CacheError, DamagedError
from c2s_cache.lock import LOCK, OWNER
from c2s_cache.manifest import IGNORE
from c2s_cache.reader import TEXT, Cache
from c2s_cache.receipt import METADATA, receipt_path
from c2s_cache.schema import array_specs

_CHECKED = (
    *("images/data", "images/digest", "images/size", "images/usable"),
    *("labels/data", "labels/ignored", "views/box", "views/flip"),
    *("teacher/global_cls", "masks/grid", "regions/cls", "regions/id"),
)
"""Arrays whose values are checked, too; of the others, only that they are what was written."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: which check, where, what."""

    check: str
    where: str
    what: str


def verify(cache: Cache, progress: Callable[[int, int], None] | None = None) -> list[Finding]:
    """Check a whole cache without a teacher: structure, completeness, checksums, leakage, pairing.

    Args:
        cache: an opened cache (`Cache(path)`, complete or not).
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
        damage += _content(cache, block) if finished else _checksums(cache, block)
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
        yield Finding("structure", name, "a file that no receipt names")


def _completeness(cache: Cache) -> Iterator[Finding]:
    """Receipts that are missing or of another request; a run of missing ones is one finding."""
    for stage in cache.manifest.stages:
        written = cache.written(stage)
        end = 1 if stage == "text" else cache.blocks
        for before, after in pairwise([-1, *written, end]):
            if after > before + 1:
                last = f"-{after - 1}" if after > before + 2 else ""
                where = f"{stage}/{before + 1}{last}"
                yield Finding("complete", where, "no receipt: this stage was never finished")
        for block in written:
            if cache.receipts[stage, block].fingerprint != cache.fingerprints[stage]:
                what = "the receipt belongs to another request"
                yield Finding("complete", f"{stage}/{block}", what)


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


def _content(cache: Cache, block: int) -> Iterator[Finding]:
    start = cache.manifest.block_range(block).start
    try:
        arrays = cache.read(block, _CHECKED, fast=True)
        text = cache.text("all").embeddings if block == 0 else None
    except DamagedError as error:
        yield from list(_checksums(cache, block)) or [Finding("read", f"block {block}", error.what)]
        return
    yield from _checksums(cache, block, {*arrays, TEXT})
    data = Block.of(arrays, start, cache.specs)
    for i in range(len(data)):
        try:
            yield from _row(cache, data, i)
        except (ValueError, LookupError, TypeError) as error:
            yield Finding("read", f"row {data.rows[i]}", f"its arrays do not fit together: {error}")
    if text is not None and not np.allclose(np.linalg.norm(text, axis=1), 1.0, atol=1e-3):
        yield Finding("values", TEXT, "a class embedding is not of unit norm")


def _row(cache: Cache, data: Block, i: int) -> Iterator[Finding]:
    m = cache.manifest
    allowed = np.array([*m.seen, IGNORE])
    for view in range(m.views):
        sample = data.sample(i, view)
        where = f"row {sample.row}"
        if view == 0:
            digest = hashlib.sha256(sample["images/data"].tobytes()).digest()
            if digest != sample["images/digest"].tobytes():
                yield Finding("pairing", where, "image bytes are not those the row was built from")
            labels = sample["labels/data"].reshape(sample["images/size"])
            leaked = np.setdiff1d(np.unique(labels), allowed)
            if leaked.size:
                yield Finding(
                    "leakage", where, f"label map holds unseen or unknown ids {leaked.tolist()}"
                )
            if (labels[sample["labels/ignored"].reshape(labels.shape)] != IGNORE).any():
                yield Finding("values", where, "an annotated pixel is said to be ignored")
        ids = sample["regions/id"]
        if len(np.unique(ids)) != len(ids) or np.isin(ids, m.unseen).any():
            yield Finding("leakage", where, "region ids repeat or name an unseen class")
        tokens = (sample["regions/cls"], sample["teacher/global_cls"])
        if not all(np.isfinite(values).all() for values in tokens):
            yield Finding("values", where, "a CLS token is not finite")
