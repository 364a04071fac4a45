"""Invariant: no byte of a cache is used before it was found equal to its receipt, and missing is never zero."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from c2s_cache.arrays import Arrays, Opening
from c2s_cache.block import Block
from c2s_cache.decode import decode
from c2s_cache.errors import CacheError, StageMissing
from c2s_cache.fingerprint import digest
from c2s_cache.folder import Folder
from c2s_cache.manifest import ID_DATA, ID_END, USABLE, Manifest
from c2s_cache.manifest_file import parse_manifest, read_root
from c2s_cache.receipt import METADATA, FileRecord, Receipt, parse
from c2s_cache.schema import ArraySpec, array_specs, ragged_ranges


class Cache:
    """A cache, opened for reading.

    Args:
        path: cache directory, or the URL of one; see `Folder`.
        manifest: what the cache was when it was opened elsewhere, and must still be but for parts that came later,
            which are left out.

    Raises:
        CacheError: no cache of this format at `path`. Completeness is checked by `open_cache`.
        DamagedError: it is another cache than `manifest` says.
    """

    def __init__(self, path: Path | str, manifest: Manifest | None = None) -> None:
        self.folder = Folder(path)
        self._root = read_root(self.folder)
        now = parse_manifest(self._root, path)
        self.manifest = manifest or now
        self.arrays = Arrays(self.folder, self._root)
        self._root_is_proven = False
        if now.first(len(self.manifest.parts)) != self.manifest:
            raise self.arrays.proof.damaged(f"{self} has changed since it was opened.")

    @property
    def address(self) -> str:
        """Where it lies: the path or URL that it was opened by."""
        return self.folder.address

    @property
    def path(self) -> Path:
        """The cache directory.

        Raises:
            CacheError: the cache lies in an object store.
        """
        if self.folder.local is None:
            raise CacheError(f"{self.address} is not on this machine.", "Copy it here first.")
        return self.folder.local

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return self.manifest.blocks

    def written(self, stage: str) -> list[int]:
        """The blocks that have a receipt of a stage, ascending."""
        blocks = 1 if stage == METADATA or self.manifest.stage(stage).once else self.blocks
        names = self.folder.list(f"receipts/{stage}")
        numbers = (int(n[:-5]) for n in names if re.fullmatch(r"[0-9]{6,20}\.json", n))
        return sorted(b for b in numbers if b < blocks)

    def receipts_of(self, stage: str) -> Iterator[Receipt]:
        """The receipts of a stage, by block; none of them is kept."""
        return self._receipts((stage, block) for block in self.written(stage))

    def _receipts(self, keys: Iterable[tuple[str, int]]) -> Iterator[Receipt]:
        """Those of the receipts that are there."""
        names = {f"receipts/{stage}/{block:06d}.json": (stage, block) for stage, block in keys}
        for name, data in self.folder.read_all(names):
            yield parse(data, f"{self}/{name}", *names[name])

    @cached_property
    def receipts(self) -> dict[tuple[str, int], Receipt]:
        """All receipts that are there, by (stage, block)."""
        stages = (METADATA, *self.manifest.stage_names)
        return {(r.stage, r.block): r for stage in stages for r in self.receipts_of(stage)}

    def __str__(self) -> str:
        return self.address

    @cached_property
    def quarantine(self) -> list[dict[str, Any]]:
        """Unreadable images: dicts with `row`, `id` and `reason`."""
        receipts = self.receipts_of(self.manifest.owners[USABLE])
        return [e for r in receipts for e in r.notes.get("quarantined", [])]

    @cached_property
    def _specs(self) -> dict[str, ArraySpec]:
        return {spec.path: spec for spec in array_specs(self.manifest)}

    def ids(self, block: int) -> list[str]:
        """Image ids of all rows of a block, quarantined ones included."""
        stored = self.read(block, [ID_DATA])
        ranges = ragged_ranges(stored[ID_END])
        return [stored[ID_DATA][a:b].tobytes().decode() for a, b in ranges]

    def once(self, path: str) -> NDArray[Any]:
        """An array of a stage that is computed once.

        Raises:
            DamagedError: as for `read`.
        """
        return self.read(0, [path])[path]

    def column(self, path: str) -> NDArray[Any]:
        """A row array of all blocks, [extent, ...]; 0 where no row is.

        Raises:
            DamagedError: as for `read`.
        """
        records: dict[str, FileRecord] = {}
        for block in range(self.blocks):
            records |= self._records(block, [path])

        def decoded(opened: Opening) -> dict[str, NDArray[Any]]:
            return decode({path: (opened(path, self.blocks), slice(self.manifest.extent))})

        return self.arrays.decode(records, f"{path} of {self}", decoded, fast=True)[path]

    def read(self, block: int, paths: Iterable[str], fast: bool = False) -> dict[str, NDArray[Any]]:
        """Read the given arrays of a block, all of them at once.

        Args:
            block: block number; the stages of the arrays must be there.
            paths: array paths.
            fast: with zarrs where it works, as training does: the same values in half the time.

        Returns:
            Path -> values: [rows of the block, ...], ragged arrays [items of all its rows, ...], and
            the `end` column of each ragged array; arrays of stages that are computed once, whole.

        Raises:
            DamagedError: a receipt or file of these arrays is missing, differs from what it must be, or
                changes while it is read.
            CacheError: the store cannot be reached, or an array cannot be decoded.
        """
        rows = self.manifest.block_range(block)
        paths = set(paths)
        ends = self._ends(paths)
        columns = (paths - ends.keys()) | set(ends.values())
        shards = {p: self._specs[p].shards[1] for p in ends}

        def decoded(opened: Opening) -> dict[str, NDArray[Any]]:
            here = slice(rows.start, rows.stop)
            part = {c: here if self._specs[c].by_row else ... for c in columns}
            arrays = decode({c: (opened(c, 1), part[c]) for c in columns})
            stops = {p: int(arrays[end].reshape(-1)[-1]) for p, end in ends.items()}
            return arrays | decode(
                {
                    p: (opened(p, -(-stop // shards[p])), (block, slice(0, stop)))
                    for p, stop in stops.items()
                }
            )

        records = self._records(block, columns | paths)
        return self.arrays.decode(records, f"block {block} of {self}", decoded, fast)

    def read_block(self, block: int, paths: Iterable[str]) -> Block:
        """Read arrays of a block as training wants them.

        Args:
            block: block number.
            paths: array paths; which rows can be used is always read.

        Raises:
            DamagedError, CacheError: as for `read`.
        """
        arrays = self.read(block, {*paths, USABLE}, fast=True)
        return Block(self.manifest, self.manifest.block_range(block).start, arrays)

    def require_unchanged(self, blocks: Iterable[int], paths: Iterable[str]) -> None:
        """Make sure that a cache on a disk is still what it was when it was opened, where arrays of it are held in
        memory. (Of one in a store, files are not asked for: each is a request.)

        Args:
            blocks: block numbers.
            paths: array paths.

        Raises:
            DamagedError: its manifest, or a receipt of the blocks, is another one by now; or a file is missing or
                has another size.
            CacheError: it is not there any more.
        """
        now = Cache(self.address, self.manifest)
        paths = {*paths, USABLE}
        size = None if self.folder.local is None else self.folder.sizing()
        for block in blocks:
            for name, record in now._records(
                block, paths | set(self._ends(paths).values())
            ).items():
                if size is not None and size(name) != record.size:
                    raise self.arrays.proof.damaged(
                        f"{self}/{name} is missing or has another size; it has changed since it was opened."
                    )

    def _ends(self, paths: Iterable[str]) -> dict[str, str]:
        """The `end` column of each ragged array."""
        known = self.manifest.arrays
        return {p: end for p in paths if (end := known[p].end) is not None}

    def _records(self, block: int, paths: Iterable[str]) -> dict[str, FileRecord]:
        """Size and digest of every file that arrays have in a block, as the receipts say now."""
        self._check_root()
        by_stage: dict[str, tuple[str, ...]] = {}
        for path in paths:
            stage = self._specs[path].stage
            by_stage[stage] = (*by_stage.get(stage, ()), f"{path}/c/")
        receipts = {r.stage: r for r in self._receipts((stage, block) for stage in by_stage)}
        records: dict[str, FileRecord] = {}
        for stage, prefixes in by_stage.items():
            receipt = receipts.get(stage)
            if receipt is None or receipt.fingerprint != self.manifest.fingerprint(stage, block):
                now = "has no receipt" if receipt is None else "is of another request"
                raise self.arrays.proof.damaged(
                    f"block {block} of {self} cannot be read: its stage {stage} {now}; the cache is "
                    "unfinished or has changed since it was opened."
                )
            found = receipt.files.items()
            records |= {name: record for name, record in found if name.startswith(prefixes)}
        return records

    def _check_root(self) -> None:
        """The manifest and the arrays' metadata were read when the cache was opened; they are proven once."""
        if self._root_is_proven:
            return
        receipt = next(self._receipts([(METADATA, 0)]), None)
        record = None if receipt is None else receipt.files.get("zarr.json")
        if record is None or digest(self._root) != record.sha256:
            raise self.arrays.proof.damaged(f"{self}/zarr.json differs from its receipt.")
        self._root_is_proven = True


def open_cache(path: Path | str, needs: Iterable[str] = (), parts: int | None = None) -> Cache:
    """Open a cache for training: complete, of this format, manifest unchanged, every file at its size.

    Args:
        path: cache directory, or the URL of one.
        needs: stages that it must have.
        parts: the first so many parts of it, as it was before the others came; None: all.

    Raises:
        StageMissing: it lacks a stage; the message says how to make a cache that has it.
        CacheError: the cache is missing, unfinished or damaged, or lacks a part; the message says how to finish it.
    """
    cache = Cache(path)
    m = cache.manifest
    if parts is not None and parts != len(m.parts):
        if parts > len(m.parts):
            raise CacheError(
                f"{path} has {len(m.parts)} part{'s' if len(m.parts) > 1 else ''}, not {parts}.",
                f"See what came when with: c2s cache info {path}",
            )
        cache = Cache(path, m.first(parts))
        m = cache.manifest
    lacking = [name for name in needs if name not in m.stage_names]
    if lacking:
        options = " ".join(f"--stage {name}" for name in lacking)
        raise StageMissing(
            f"{path} lacks the stage{'s' if len(lacking) > 1 else ''} {', '.join(lacking)}.",
            f"Make a cache that has what is missing: c2s cache derive {path} --out NEW {options}",
        )
    expected = sum(1 if stage.once else cache.blocks for stage in m.stages)
    found = sum(len(cache.written(stage)) for stage in m.stage_names)
    if found < expected or not cache.written(METADATA):
        raise CacheError(
            f"{path} is incomplete: {found} of {expected} block stages are written.",
            "Finish it by running the same c2s cache build or derive again.",
        )
    size = cache.folder.sizing()
    inspect = f"Inspect with: c2s cache verify {path} --quick"
    for receipt in (r for stage in m.stage_names for r in cache.receipts_of(stage)):
        if receipt.fingerprint != m.fingerprint(receipt.stage, receipt.block):
            raise CacheError(
                f"{path}: stage {receipt.stage} of block {receipt.block} was written for another request.",
                "Build the cache anew with another --out.",
            )
        for name, record in receipt.files.items():
            if size(name) != record.size:
                raise CacheError(
                    f"{cache}/{name} is missing or has the wrong size (expected {record.size} bytes).",
                    inspect,
                )
    (metadata,) = cache.receipts_of(METADATA)
    for name, found_digest in cache.folder.digests(metadata.files):
        if found_digest != metadata.files[name].sha256:
            raise CacheError(f"{cache}/{name} has changed since the cache was created.", inspect)
    return cache
