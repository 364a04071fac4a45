"""Invariant: axis 0 of every array is cut into shards at block boundaries, so one block owns whole files."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from c2s_cache.errors import CacheError
from c2s_cache.manifest import ArrayRecord, Manifest, StageRecord

UNBOUNDED, SHARD = 2**40, 16384
"""Nominal length of a ragged axis, of which only the chunks below a block's last `end` exist, and slots of a shard."""


@dataclass(frozen=True)
class ArraySpec:
    """One array of a cache as Zarr has it: its stage, path, axes and chunking.

    Axis 0 counts rows, `block_rows` of them in a shard, or blocks, one in a shard (ragged: the values of all rows of a
    block run on along axis 1). An array that is computed once is one shard; a ragged one has block 0 alone.
    """

    stage: str
    path: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    shards: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str
    zstd: int | None

    @property
    def ragged(self) -> bool:
        """Whether axis 0 counts blocks."""
        return self.dims[0] == "block"

    @property
    def by_row(self) -> bool:
        """Whether axis 0 counts rows."""
        return self.dims[0] == "row"


def array_specs(manifest: Manifest) -> tuple[ArraySpec, ...]:
    """All arrays of a cache, in stage order (SPEC 3)."""
    return tuple(
        _spec(manifest, stage, path, array)
        for stage in manifest.stages
        for path, array in stage.arrays.items()
    )


def _spec(m: Manifest, stage: StageRecord, path: str, array: ArrayRecord) -> ArraySpec:
    item = tuple(m.axes[name] for name in array.axes)
    if stage.once and array.end is None:
        dims, shape, shards, chunks = array.axes, item, item, item
    elif array.end is None:
        dims, shape = ("row", *array.axes), (m.extent, *item)
        shards, chunks = (m.block_rows, *item), (array.chunk or m.block_rows, *item)
    else:
        shard = array.shard or SHARD
        blocks = 1 if stage.once else m.blocks
        dims, shape = ("block", "slot", *array.axes), (blocks, UNBOUNDED, *item)
        shards, chunks = (1, shard, *item), (1, array.chunk or shard, *item)
    return ArraySpec(stage.name, path, dims, shape, shards, chunks, array.dtype, array.zstd)


def create_arrays(path: Path, manifest: Manifest) -> None:
    """Write the metadata of an empty cache: the group, its manifest and every array.

    Raises:
        OSError: the target cannot be written.
    """
    root = zarr.open_group(path, mode="w-", zarr_format=3)
    for spec in array_specs(manifest):
        codecs = [] if spec.zstd is None else [ZstdCodec(level=spec.zstd)]
        root.create_array(
            spec.path,
            shape=spec.shape,
            shards=spec.shards,
            chunks=spec.chunks,
            dtype=spec.dtype,
            compressors=[*codecs, Crc32cCodec()],
            fill_value=0,
            dimension_names=spec.dims,
        )
    with warnings.catch_warnings():
        # Consolidated metadata are a zarr-python convention for v3; SPEC.md says so.
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(path)
        zarr.open_group(path, mode="r+").attrs["c2s"] = manifest.model_dump(mode="json")


def open_arrays(path: Path | str, mode: str = "r") -> zarr.Group:
    """Open the Zarr group of a cache, by its path or URL (`mode` "r" or "r+").

    Raises:
        CacheError: there is no Zarr v3 group at `path`.
    """
    try:
        return zarr.open_group(path, mode=mode, zarr_format=3)  # type: ignore[arg-type]
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise CacheError(
            f"{path} is not a c2s cache (no Zarr v3 group there).",
            "Build one with: c2s cache build --dataset NAME",
        ) from error


def ragged_ranges(end: np.ndarray) -> Iterator[tuple[int, int]]:
    """Start and end of each item of a ragged column within its block, from the `end` column."""
    start = 0
    for stop in end.reshape(-1).tolist():
        yield start, int(stop)
        start = int(stop)
