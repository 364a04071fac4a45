"""Invariant: axis 0 of every array is cut into shards at block boundaries, so one block owns whole files."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from c2s_cache.errors import CacheError
from c2s_cache.manifest import Manifest

UNBOUNDED = 2**40
"""Nominal length of a ragged axis; only the chunks below a block's last `end` exist."""

RAGGED = {
    "images/data": "images/end",
    "images/id_data": "images/id_end",
    "labels/data": "labels/end",
    "labels/ignored": "labels/end",
    "regions/cls": "regions/end",
    "regions/id": "regions/end",
    "regions/area": "regions/end",
}
"""Ragged arrays and the columns that hold the ends of their items."""

MAX_REGIONS = 255
"""Largest number of region tokens one view may hold."""


@dataclass(frozen=True)
class ArraySpec:
    """One array of the cache: its stage, path, axes and chunking.

    The shard shape is given with the block axis first: either `block_rows` rows of a row array, or
    one block of a ragged array.
    """

    stage: str
    path: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    shards: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str
    zstd: int | None = 3

    @property
    def ragged(self) -> bool:
        """Whether axis 0 counts blocks (values of all rows run on along axis 1) instead of rows."""
        return self.dims[0] == "block"


def array_specs(manifest: Manifest) -> tuple[ArraySpec, ...]:
    """All arrays of a cache, in stage order. Shapes and meaning are normative in SPEC.md."""
    m, (height, width), dim = manifest, manifest.teacher.grid, manifest.teacher.dim
    block = m.block_rows

    def rows(
        stage: str, path: str, dims: tuple[str, ...], tail: tuple[int, ...], dtype: str, **kw: Any
    ) -> ArraySpec:
        per_chunk = kw.pop("rows_per_chunk", block)
        return ArraySpec(
            stage,
            path,
            ("row", *dims),
            (m.rows, *tail),
            (block, *tail),
            (per_chunk, *tail),
            dtype,
            **kw,
        )

    def ragged(
        stage: str,
        path: str,
        chunk: int,
        shard: int,
        dtype: str,
        tail: tuple[int, ...] = (),
        **kw: Any,
    ) -> ArraySpec:
        axes = ("block", "slot", *(("channel",) if tail else ()))
        return ArraySpec(
            stage,
            path,
            axes,
            (m.blocks, UNBOUNDED, *tail),
            (1, shard, *tail),
            (1, chunk, *tail),
            dtype,
            **kw,
        )

    view = (m.views,)
    grid = ("view", "grid_y", "grid_x")
    specs = [
        ragged("images", "images/data", 256 << 10, 16 << 20, "uint8", zstd=None),
        rows("images", "images/end", (), (), "uint64"),
        rows("images", "images/size", ("axis",), (2,), "int32"),
        rows("images", "images/digest", ("byte",), (32,), "uint8", zstd=None),
        rows("images", "images/usable", (), (), "bool"),
        ragged("images", "images/id_data", 64 << 10, 1 << 20, "uint8"),
        rows("images", "images/id_end", (), (), "uint32"),
        ragged("labels", "labels/data", 1 << 20, 64 << 20, "uint8"),
        ragged("labels", "labels/ignored", 1 << 20, 64 << 20, "bool"),
        rows("labels", "labels/end", (), (), "uint64"),
        rows("views", "views/box", ("view", "edge"), (*view, 4), "float64"),
        rows("views", "views/flip", ("view",), view, "bool"),
        rows("teacher", "teacher/global_cls", ("view", "channel"), (*view, dim), "float16"),
        rows("masks", "masks/grid", grid, (*view, height, width), "uint8"),
        ragged("regions", "regions/cls", 64, 16384, "float16", (dim,)),
        ragged("regions", "regions/id", 16384, 16384, "int16"),
        ragged("regions", "regions/area", 16384, 16384, "float32"),
        rows("regions", "regions/end", ("view",), view, "uint32"),
        rows("regions", "regions/skipped", ("view",), view, "uint16"),
    ]
    if m.dense != "none":
        tail = (*view, height, width, manifest.teacher.dense_dim or dim)
        dims = (*grid, "dense_channel")
        tokens = "int8" if m.dense == "int8" else "float16"
        per_chunk = 1 if block % 4 else 4
        specs.append(rows("dense", "teacher/dense", dims, tail, tokens, rows_per_chunk=per_chunk))
        if m.dense == "int8":
            specs.append(
                rows("dense", "teacher/dense_scale", grid, (*view, height, width), "float16")
            )
    classes = len(m.classes)
    shape = (classes, dim)
    specs.append(
        ArraySpec("text", "text/embeddings", ("class", "channel"), shape, shape, shape, "float32")
    )
    return tuple(specs)


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
