"""Invariant: what is decoded is what was proven, from bytes in memory or, with zarrs, from files.

zarrs gives the same values in half the time of Zarr's own decoder. It reads files by itself, takes one that is
missing for zeros, skips the checksums of the parts of a shard, and its threads do not survive a fork.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.codec import CodecPipeline
from zarr.core.array import AsyncArray
from zarr.core.buffer import Buffer, cpu
from zarr.core.codec_pipeline import BatchedCodecPipeline
from zarr.core.metadata import ArrayV3Metadata
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore, StorePath
from zarrs import ZarrsCodecPipeline

Encoded = AsyncArray[ArrayV3Metadata]

_forked = False


def _note_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def zarrs_works() -> bool:
    """Whether this process may use zarrs: its parent may have started the threads that a fork leaves behind."""
    return not _forked


def metadata_of(root: bytes) -> dict[str, ArrayV3Metadata]:
    """Metadata of the arrays of a cache by path, from the consolidated ones in the bytes of its root `zarr.json`.

    Raises:
        Exception: of any kind; Zarr parses what it finds.
    """
    group = zarr.open_group(in_memory({"zarr.json": root}), mode="r", zarr_format=3)
    found = ((path, array.metadata) for path, array in group.members(max_depth=None))
    return {path: m for path, m in found if isinstance(m, ArrayV3Metadata)}


def in_memory(files: Mapping[str, bytes]) -> MemoryStore:
    """A store of these files, by their paths below the cache; to Zarr, what has no file is 0."""
    buffers: dict[str, Buffer] = {name: cpu.Buffer.from_bytes(data) for name, data in files.items()}
    return MemoryStore(buffers, read_only=True)


def from_memory(metadata: ArrayV3Metadata, path: str, store: MemoryStore) -> Encoded:
    """The array at `path`, to be decoded from files in memory."""
    pipeline = BatchedCodecPipeline.from_codecs(metadata.codecs)
    return _array(metadata, StorePath(store, path), pipeline)


def from_disk(metadata: ArrayV3Metadata, path: str, root: Path) -> Encoded:
    """The array at `path`, to be decoded by zarrs from the files below a cache directory."""
    store = LocalStore(root, read_only=True)
    pipeline = ZarrsCodecPipeline.from_array_metadata_and_store(metadata, store)
    return _array(metadata, StorePath(store, path), pipeline)


def _array(metadata: ArrayV3Metadata, where: StorePath, pipeline: CodecPipeline) -> Encoded:
    array = AsyncArray(metadata, where)
    # By hand: Zarr's setting is that of the whole process, where others write, and the compressed bytes that a
    # rebuild must repeat are those of Zarr's own pipeline.
    object.__setattr__(array, "codec_pipeline", pipeline)
    return array


def decode(parts: Mapping[str, tuple[Encoded, Any]]) -> dict[str, NDArray[Any]]:
    """Selections of arrays, all at once: a disk is read with half the overhead of one after the other."""

    async def together() -> list[Any]:
        return await asyncio.gather(*(array.getitem(part) for array, part in parts.values()))

    found: list[Any] = sync(together())
    return {path: np.asarray(values) for path, values in zip(parts, found, strict=True)}
