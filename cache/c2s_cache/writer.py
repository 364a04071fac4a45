"""Invariant: a stage of a block is a transaction - written, read back, digested, then its receipt commits."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from c2s_cache.change import Change, change
from c2s_cache.errors import CacheError, MismatchError
from c2s_cache.fingerprint import file_digest
from c2s_cache.lock import LOCK, OWNER, writing, writing_block
from c2s_cache.manifest import USABLE, Manifest
from c2s_cache.manifest_file import read_manifest
from c2s_cache.ownership import contents
from c2s_cache.receipt import (
    METADATA,
    FileRecord,
    Receipt,
    commit,
    load,
    retract,
    sync_directory,
)
from c2s_cache.schema import ArraySpec, array_specs, create_arrays, open_arrays

STAGING = ".c2s-metadata"
"""Folder in a cache in which new metadata are written before they take their places; it goes when their receipt is
there. Nobody else has a folder of that name: it marks a cache of ours that was only begun."""


class BlockWriter:
    """Writes the stages of a cache block by block; safe to use from several processes on distinct blocks.

    Args:
        path: cache directory, made by `create_cache`.
        token: of the build that this writer works for, from `build_lock`; without one nobody checks.
    """

    def __init__(self, path: Path, token: str | None = None) -> None:
        self.path, self._token = path, token
        self.manifest = read_manifest(path)
        self._specs = array_specs(self.manifest)
        self._group = open_arrays(path, "r+")

    def missing(self, block: int) -> tuple[str, ...]:
        """Stages of a block that have no receipt of this request, or not all its files, in stage order."""
        return tuple(s for s in self.manifest.stages_of(block) if not self._finished(s, block))

    def _finished(self, stage: str, block: int) -> bool:
        return self._proof(stage, block) is not None

    def _proof(self, stage: str, block: int) -> Receipt | None:
        """The receipt of this request, if all files that it names are there."""
        receipt = load(self.path, stage, block)
        if receipt is None or receipt.fingerprint != self.manifest.fingerprint(stage, block):
            return None
        sizes = ((f"{self.path}/{name}", record.size) for name, record in receipt.files.items())
        return receipt if all(_size(name) == size for name, size in sizes) else None

    def write(
        self,
        stage: str,
        block: int,
        data: Mapping[str, np.ndarray],
        notes: Mapping[str, Any] | None = None,
    ) -> Receipt:
        """Write every array of one stage for one block and commit its receipt.

        For a build, what is finished stays as it is: its task may run twice.

        Args:
            stage: stage name.
            block: block number.
            data: array path -> values. Row arrays: [rows of the block, ...]; ragged arrays: the
                items of all rows run together along axis 0.
            notes: facts for the receipt, a pure function of the inputs.

        Raises:
            CacheError: what was read back differs from what was written, or another build owns the
                cache by now.
            OSError: the target cannot be written (disk full, no permission).
        """
        with self._right_to_write(block):
            if self._token is not None and (finished := self._proof(stage, block)) is not None:
                return finished
            retract(self.path, stage, block)
            files: dict[str, FileRecord] = {}
            for spec in self._specs:
                if spec.stage == stage:
                    files |= self._write_array(spec, block, data[spec.path])
            receipt = Receipt(
                stage=stage,
                block=block,
                fingerprint=self.manifest.fingerprint(stage, block),
                files=dict(sorted(files.items())),
                notes=dict(notes or {}),
            )
            commit(self.path, receipt)
        return receipt

    @contextmanager
    def _right_to_write(self, block: int) -> Iterator[None]:
        if self._token is None:
            yield
            return
        with writing(self.path, self._token), writing_block(self.path, block):
            yield

    def adopt(self, base: Path, receipt: Receipt) -> None:
        """Take a finished stage of a block from another cache that has the same fingerprint of it.

        Args:
            base: the other cache; files are shared with it by hard links where possible (SPEC 5.3).
            receipt: its receipt of the stage.

        Raises:
            CacheError: a file of the other cache is missing or of another size than its receipt says.
        """
        retract(self.path, receipt.stage, receipt.block)
        for spec in self._specs:
            if spec.stage == receipt.stage:
                self._clear(spec, receipt.block)
        for name, record in receipt.files.items():
            _share(base / name, self.path / name, record.size)
        commit(self.path, receipt)

    def _clear(self, spec: ArraySpec, block: int) -> Path:
        """Remove what an earlier attempt left of an array's block; returns where the block lies."""
        folder = self.path / spec.path / "c" / str(block)
        if folder.is_dir():
            shutil.rmtree(folder)
        elif folder.exists():  # one-dimensional arrays have a shard file where others have a folder
            folder.unlink()
        return folder

    def _write_array(
        self, spec: ArraySpec, block: int, values: np.ndarray
    ) -> dict[str, FileRecord]:
        folder = self._clear(spec, block)
        array = self._group[spec.path]
        assert isinstance(array, zarr.Array)
        expected = np.ascontiguousarray(values, dtype=spec.dtype)
        selection = self._selection(spec, block, len(expected))
        if expected.size:
            array[selection] = expected[None] if spec.ragged else expected
            read = np.asarray(array[selection])
            if not _same_bits(read[0] if spec.ragged else read, expected):
                raise CacheError(
                    f"{folder} does not read back as written; the disk may be failing.",
                    "Check the disk, then run the same c2s cache build again.",
                )
        return {str(f.relative_to(self.path)): _record(f) for f in shard_files(folder)}

    def _selection(self, spec: ArraySpec, block: int, length: int) -> tuple[slice, ...]:
        if spec.ragged:
            return (slice(block, block + 1), slice(0, length))
        if not spec.by_row:
            return (slice(None),)
        rows = self.manifest.block_range(block)
        if length != len(rows):
            raise ValueError(f"{spec.path}: {length} rows for a block of {len(rows)}")
        return (slice(rows.start, rows.stop),)


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether contiguous arrays are equal, NaN and the signs of zeros included."""
    return a.shape == b.shape and np.array_equal(_bytes_of(a), _bytes_of(b))


def _bytes_of(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


def _share(source: Path, target: Path, size: int) -> None:
    if not source.is_file() or source.stat().st_size != size:
        raise CacheError(
            f"{source} is missing or has the wrong size (expected {size} bytes).",
            "Inspect that cache with c2s cache verify.",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
    with target.open("rb") as handle:
        os.fsync(handle.fileno())
    sync_directory(target.parent)


def _size(name: str) -> int | None:
    """Plain strings and one call: a large cache has millions of files."""
    try:
        return os.stat(name).st_size  # noqa: PTH116
    except FileNotFoundError:
        return None


def shard_files(folder: Path) -> list[Path]:
    """All files of one block of one array, sorted; `folder` may be a file (one-dimensional arrays)."""
    if folder.is_file():
        return [folder]
    return sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else []


def _record(file: Path) -> FileRecord:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
    sync_directory(file.parent)
    return FileRecord(size=file.stat().st_size, sha256=file_digest(file))


def create_cache(path: Path, manifest: Manifest, update: bool = False) -> Change | None:
    """Create an empty cache, accept the one that is there, let it grow, or change it to another request in place.

    Args:
        path: cache directory; held by `build_lock`.
        manifest: what the cache is to be; it may have more parts than there are.
        update: discard the stages of an existing cache that another request made. All others stay.

    Returns:
        What differs from the cache that was there (nothing if it was made for the same request),
        or None if there was none.

    Raises:
        MismatchError: `path` holds a cache made for another request, and `update` is not set or
            nothing of it could be kept.
        CacheError: `path` holds something that is not a cache.
    """
    have = existing(path)
    if have is None:
        path.mkdir(parents=True, exist_ok=True)
        for begun in path.iterdir() if (path / STAGING).exists() else ():
            if begun.is_dir() and begun.name != STAGING:  # arrays that the request may not have
                shutil.rmtree(begun, ignore_errors=True)
        _write_metadata(path, manifest)
        return None
    changed = change(have, manifest.first(len(have.parts)))
    if changed:
        _check_update(path, changed, update, manifest.owners[USABLE])
        _discard(path, have, changed)
        _drop_groups(path, have, manifest)
    elif len(manifest.parts) > len(have.parts):
        retract(path, METADATA, 0)
    if load(path, METADATA, 0) is None:
        _write_metadata(path, manifest)
    shutil.rmtree(path / STAGING, ignore_errors=True)
    return changed


def existing(path: Path) -> Manifest | None:
    """The manifest of the cache at `path`, which is held by `build_lock`; None if none is there, or one was only begun.
    Metadata of which somebody who was killed had changed a part are those of the manifest again.

    Raises:
        CacheError: as for `create_cache`.
    """
    check_target(path)
    if _only_begun(path) or not _marked(path):
        return None
    have = read_manifest(path)
    if load(path, METADATA, 0) is None:
        _write_metadata(path, have)
    return have


def check_target(path: Path) -> None:
    """Refuse to build where something stands that is not ours, before anything there is touched.

    Raises:
        CacheError: `path` is neither free, nor an empty folder, nor a cache, finished or begun.
    """
    if not (path.exists() or path.is_symlink()):
        return
    empty = path.is_dir() and {f.name for f in path.iterdir()} <= {LOCK, OWNER}
    if not (empty or _only_begun(path) or _marked(path)):
        raise CacheError(
            f"{path} is not a c2s cache ({contents(path)}), so nothing is built there.",
            "Choose another --out.",
        )


def _marked(path: Path) -> bool:
    """Whether `path` holds the manifest of a cache, of whatever format."""
    try:
        return isinstance(json.loads((path / "zarr.json").read_bytes())["attributes"]["c2s"], dict)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _check_update(path: Path, changed: Change, update: bool, root: str) -> None:
    built = f"{path} was built for another request (cache -> request):{changed}\n"
    elsewhere = f"Choose another --out, or repeat the options that {path.name} was built with"
    if root not in changed.kept:
        raise MismatchError(
            f"{built}It holds other images, so nothing of it can be kept.", f"{elsewhere}."
        )
    if not update:
        stages = f"would compute {', '.join(changed.new) or 'nothing'} and keep the rest"
        raise MismatchError(f"{built}Changing it in place (--update) {stages}.", f"{elsewhere}.")


def _discard(path: Path, have: Manifest, changed: Change) -> None:
    """Remove what another request made: proofs first, so that no receipt ever outlives its files."""
    retract(path, METADATA, 0)
    for stage in changed.stale:
        if (path / "receipts" / stage).exists():
            shutil.rmtree(path / "receipts" / stage)
    if (path / "receipts").exists():
        sync_directory(path / "receipts")
    for spec in array_specs(have):
        if spec.stage in changed.stale and (path / spec.path).exists():
            shutil.rmtree(path / spec.path)


def _drop_groups(path: Path, have: Manifest, want: Manifest) -> None:
    """Remove the groups that no array of the wanted cache lies in."""
    before, after = ({name.partition("/")[0] for name in m.arrays} for m in (have, want))
    for group in before - after:
        shutil.rmtree(path / group, ignore_errors=True)


def _write_metadata(path: Path, manifest: Manifest) -> None:
    """Write group, manifest and arrays' metadata; the root, which holds the manifest, changes last."""
    staging = path / STAGING
    shutil.rmtree(staging, ignore_errors=True)
    create_arrays(staging, manifest)
    names = sorted((f.relative_to(staging) for f in staging.rglob("zarr.json")), reverse=True)
    names.sort(key=lambda name: -len(name.parts))
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (staging / name).replace(path / name)
    files = {str(name): _record(path / name) for name in sorted(names)}
    commit(path, Receipt(stage=METADATA, block=0, fingerprint="", files=files))
    shutil.rmtree(staging)


def _only_begun(path: Path) -> bool:
    """Whether `path` is a cache of ours whose creation was cut short before its first receipt."""
    receipts = (path / "receipts").rglob("*.json")  # one that was being written has another ending
    return (path / STAGING).is_dir() and not any(receipts)
