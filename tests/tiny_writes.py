"""What a process does to a tiny cache until it is killed; see `kill_points`. Imports nothing that starts threads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tiny_cache import grown, tiny_manifest

from c2s_cache import Cache, Manifest, Part
from c2s_cache.lock import build_lock
from c2s_cache.schema import array_specs
from c2s_cache.writer import BlockWriter, create_cache, existing


def dense_request() -> Manifest:
    """The tiny cache's request, with a dense tier."""
    return tiny_manifest(dense={"tier": "int8"})


def changed_request() -> Manifest:
    """The tiny cache's request, with other masks."""
    return tiny_manifest(masks={"threshold": 0.5})


def begin(folder: Path) -> None:
    """Create a cache."""
    create_cache(folder / "a.zarr", dense_request())


def block_data(path: Path, stage: str, block: int) -> dict[str, np.ndarray[Any, Any]]:
    """What the cache holds of one stage of a block."""
    cache = Cache(path)
    return cache.read(block, [s.path for s in array_specs(cache.manifest) if s.stage == stage])


def repeat(folder: Path) -> None:
    """Run the task of a block that is finished again."""
    path = folder / "a.zarr"
    with build_lock(path) as token:
        writer = BlockWriter(path, token)
        for stage in writer.manifest.stages_of(1):
            writer.write(stage, 1, block_data(path, stage, 1))


def change(folder: Path) -> None:
    """Change the request of the masks in place, and write again what depends on them: the same values."""
    path = folder / "a.zarr"
    data = {(s, b): block_data(path, s, b) for s in ("masks", "regions") for b in range(3)}
    with build_lock(path) as token:
        create_cache(path, changed_request(), update=True)
        writer = BlockWriter(path, token)
        for (stage, block), arrays in data.items():
            writer.write(stage, block, arrays)


def grow(folder: Path) -> None:
    """Let a cache grow by one part, unless it did, and write what is missing of it."""
    path = folder / "a.zarr"
    with build_lock(path) as token:
        before = existing(path)
        assert before is not None
        part = Part(source={"drawn": 1}, order="1" * 64, rows=4)
        create_cache(path, grown(before.first(1), part))
        writer = BlockWriter(path, token)
        for block in range(writer.manifest.blocks):
            for stage in writer.missing(block):
                writer.write(
                    stage, block, block_data(path, stage, block - before.blocks_of(0).stop)
                )


def mend(folder: Path) -> None:
    """Run the task of a block of which files are missing or cut."""
    path = folder / "a.zarr"
    with build_lock(path) as token:
        writer = BlockWriter(path, token)
        for stage in writer.missing(1):
            whole = Cache(folder / "whole.zarr").receipts[stage, 1]
            writer.write(stage, 1, block_data(folder / "whole.zarr", stage, 1), whole.notes)
