"""Invariant: verification trusts nothing but the receipts and re-reads every byte."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from c2s_cache.block import Block
from c2s_cache.errors import CacheError
from c2s_cache.manifest import IGNORE
from c2s_cache.reader import Cache
from c2s_cache.receipt import METADATA, receipt_path
from c2s_cache.schema import array_specs


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
    """
    there = cache.folder.sizes()
    findings: list[Finding] = [*_metadata(cache), *_structure(cache), *_strays(cache, there)]
    for block in range(cache.blocks):
        missing = list(_completeness(cache, block))
        damaged = [] if missing else list(_checksums(cache, block, there))
        findings += missing + damaged
        if not missing and not damaged:
            findings += _content(cache, block)
        if progress is not None:
            progress(block + 1, cache.blocks)
    return findings


def _metadata(cache: Cache) -> Iterator[Finding]:
    receipt = cache.receipts.get((METADATA, 0))
    if receipt is None:
        yield Finding("complete", METADATA, "no receipt: the cache was never fully created")
        return
    for name, record in receipt.files.items():
        if _digest(cache, name) != record.sha256:
            yield Finding("checksum", name, "metadata differ from the receipt or are missing")


def _structure(cache: Cache) -> Iterator[Finding]:
    """Shape, type, axes and shards of every array, as SPEC.md has them for this manifest."""
    for spec in array_specs(cache.manifest):
        try:
            array = cache.array(spec.path)
        except (KeyError, CacheError):
            yield Finding("structure", spec.path, "the array is missing")
            continue
        meta = array.metadata
        have = (array.shape, str(array.dtype), array.shards, getattr(meta, "dimension_names", None))
        want = (spec.shape, spec.dtype, spec.shards, spec.dims)
        if have != want:
            yield Finding("structure", spec.path, f"is {have}, expected {want}")


def _strays(cache: Cache, there: Iterable[str]) -> Iterator[Finding]:
    known = {name for receipt in cache.receipts.values() for name in receipt.files}
    known |= {receipt_path(Path(), *key).as_posix() for key in cache.receipts} | {
        "provenance.jsonl"
    }
    for name in sorted(set(there) - known):
        yield Finding("structure", name, "a file that no receipt names")


def _completeness(cache: Cache, block: int) -> Iterator[Finding]:
    prints = cache.manifest.fingerprints
    for stage in cache.manifest.stages_of(block):
        receipt = cache.receipts.get((stage, block))
        if receipt is None:
            yield Finding(
                "complete", f"{stage}/{block}", "no receipt: this stage was never finished"
            )
        elif receipt.fingerprint != prints[stage]:
            yield Finding("complete", f"{stage}/{block}", "the receipt belongs to another request")


def _checksums(cache: Cache, block: int, there: Container[str]) -> Iterator[Finding]:
    for stage in cache.manifest.stages_of(block):
        for name, record in cache.receipts[stage, block].files.items():
            if name not in there:
                yield Finding("checksum", name, "file is missing")
            elif _digest(cache, name) != record.sha256:
                yield Finding("checksum", name, "bytes differ from the receipt")


def _digest(cache: Cache, name: str) -> str | None:
    try:
        return cache.folder.digest(name)
    except FileNotFoundError:
        return None


def _content(cache: Cache, block: int) -> Iterator[Finding]:
    try:
        data = cache.read_block(block, transductive=True)
    except (CacheError, ValueError, OSError) as error:
        yield Finding("read", f"block {block}", f"cannot be read: {error}")
        return
    rows = cache.manifest.block_range(block)
    digests = np.asarray(cache.array("images/digest")[rows.start : rows.stop])
    for i in range(len(data)):
        try:
            yield from _row(cache, data, i, digests)
        except (ValueError, IndexError) as error:
            yield Finding("read", f"row {data.rows[i]}", f"its arrays do not fit together: {error}")
    if block == 0:
        norms = np.linalg.norm(np.asarray(cache.array("text/embeddings")[:]), axis=1)
        if not np.allclose(norms, 1.0, atol=1e-3):
            yield Finding("values", "text/embeddings", "a class embedding is not of unit norm")


def _row(cache: Cache, data: Block, i: int, digests: np.ndarray) -> Iterator[Finding]:
    m = cache.manifest
    allowed = np.array([*m.seen, IGNORE])
    for view in range(m.views):
        sample = data.sample(i, view)
        where = f"row {sample.row}"
        if view == 0:
            digest = hashlib.sha256(sample.image).digest()
            if digest != digests[sample.row - data.start].tobytes():
                yield Finding("pairing", where, "image bytes are not those the row was built from")
            leaked = np.setdiff1d(np.unique(sample.labels), allowed)
            if leaked.size:
                yield Finding(
                    "leakage", where, f"label map holds unseen or unknown ids {leaked.tolist()}"
                )
            if (sample.labels[sample.ignored] != IGNORE).any():
                yield Finding("values", where, "an annotated pixel is said to be ignored")
        ids = sample.region_ids
        if len(np.unique(ids)) != len(ids) or np.isin(ids, m.unseen).any():
            yield Finding("leakage", where, "region ids repeat or name an unseen class")
        if not np.isfinite(sample.region_cls).all() or not np.isfinite(sample.global_cls).all():
            yield Finding("values", where, "a CLS token is not finite")
