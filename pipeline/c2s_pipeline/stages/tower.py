"""Stage `tower`: the weights of the teacher's image tower, for students that are made of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2s_cache import ArrayRecord, Block, CacheError
from c2s_cache.integrity import Finding
from c2s_cache.tower import decode_tower, encode_tower
from c2s_pipeline.stages.base import Once, Outline, Stage

WEIGHTS, END = "tower/weights", "tower/end"
SHARD = 1 << 24
"""Bytes of a file: some twenty of a ViT-B."""


class Tower(Stage):
    """One safetensors file with a header, of a CLIP vision transformer; no text tower."""

    name = "tower"
    facts = ("teacher.tower_digest",)
    default = False
    once = True
    inspected = (WEIGHTS,)

    def axes(self, outline: Outline) -> dict[str, int]:
        """There is one tower."""
        return {"tower": 1}

    def arrays(self, outline: Outline) -> dict[str, ArrayRecord]:
        """See `Stage.arrays`; weights do not shrink."""
        return {
            WEIGHTS: ArrayRecord(dtype="uint8", end=END, shard=SHARD, zstd=None),
            END: ArrayRecord(axes=("tower",), dtype="uint64"),
        }

    def compute_once(self, build: Once) -> Mapping[str, NDArray[Any]]:
        """The teacher's own weights, as float32.

        Raises:
            ConfigError: its image tower is no such vision transformer.
        """
        from c2s_pipeline.teachers.vit_weights import vit_weights

        content = encode_tower(*vit_weights(build.teacher, build.manifest.teacher))
        return {WEIGHTS: content, END: np.array([len(content)], np.uint64)}

    def inspect(self, block: Block) -> Iterator[Finding]:
        """A tower that is not whole, not finite, or another teacher's."""
        if WEIGHTS not in block.arrays:
            return
        try:
            info, tensors = decode_tower(block.arrays[WEIGHTS])
        except CacheError as error:
            yield Finding("values", WEIGHTS, error.what)
            return
        if info.digest != block.manifest.teacher.tower_digest:
            yield Finding("values", WEIGHTS, "the tower is not that of the cache's teacher")
        for name, values in tensors.items():
            if not np.isfinite(values).all():
                yield Finding("values", WEIGHTS, f"the tensor {name} is not finite")
