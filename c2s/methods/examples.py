"""Invariant: where the pixels of a view lie in a cache is written here, and nowhere else in the trainer."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from c2s_cache.block import Sample

IMAGE, SIZE, LABELS, BOX, FLIP = (
    *("images/data", "images/size", "labels/data"),
    *("views/box", "views/flip"),
)
PIXELS = (IMAGE, SIZE, LABELS, BOX, FLIP)
"""What cutting a view needs."""


def source_map(sample: Sample, path: str) -> NDArray[Any]:
    """A map that has one value for each pixel of the source image, [H, W]."""
    values: NDArray[Any] = sample[path].reshape(sample[SIZE])
    return values
