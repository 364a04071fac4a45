"""Invariant: geometry is drawn once, from labels training may see; replaying it needs no random numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from c2s_cache.manifest import IGNORE
from c2s_cache.views import Box, crop_labels

CROPS = 10
"""Crops that are tried for their balance of classes; the one after them is taken as it is."""
LONG_SIDE = 4
"""Cap on the long side, as a multiple of the short side (the field's scale of 2048 x 512)."""
_STREAM = 1


class AugmentConfig(BaseModel):
    """How random views are drawn: the training pipeline of mmsegmentation, as ZegCLIP uses it.

    `ratio` is the range of the resize ratio relative to the view's size; a crop in which one class
    covers `category_max_ratio` or more of the annotated pixels is drawn again; `flip` is the
    probability of mirroring.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    ratio: tuple[float, float] = (0.5, 2.0)
    category_max_ratio: float = Field(default=0.75, gt=0.0, le=1.0)
    flip: float = Field(default=0.5, ge=0.0, le=1.0)

    @field_validator("ratio")
    @classmethod
    def _ordered(cls, ratio: tuple[float, float]) -> tuple[float, float]:
        if not 0 < ratio[0] <= ratio[1]:
            raise ValueError("expected two positive numbers, the smaller one first")
        return ratio


def view_rng(seed: int, row: int, view: int) -> np.random.Generator:
    """Random stream of one view of one row, whoever draws it and in whatever order."""
    return np.random.default_rng([seed, _STREAM, row, view])


def draw_view(
    labels: NDArray[np.uint8], size: int, rng: np.random.Generator, config: AugmentConfig
) -> tuple[Box, bool]:
    """Draw a view: resize by a random ratio, crop size x size, mirror.

    An image smaller than the crop is padded on the right and at the bottom of the finished view.

    Args:
        labels: uint8 [H, W], unseen classes removed, 255 = not annotated.
        size: S, side of the view in pixels.
        rng: stream of this view.
        config: what to draw.

    Returns:
        Box (x0, y0, x1, y1) in source pixels, which may exceed the image, and whether to mirror.
    """
    height, width = labels.shape
    ratio = rng.uniform(*config.ratio)
    short, long = int(size * ratio), int(LONG_SIDE * size * ratio)
    scale = min(short / min(height, width), long / max(height, width))
    resized_h, resized_w = (max(int(side * scale + 0.5), 1) for side in (height, width))
    for attempt in range(CROPS + 1):
        top = int(rng.integers(max(resized_h - size, 0) + 1))
        left = int(rng.integers(max(resized_w - size, 0) + 1))
        box = _source_box(left, top, size, (height, width), (resized_h, resized_w))
        if attempt == CROPS or _balanced(labels, box, size, config.category_max_ratio):
            break
    flip = bool(rng.random() < config.flip)
    if flip and resized_w < size:  # padding ends up on the right
        box = _source_box(resized_w - size, top, size, (height, width), (resized_h, resized_w))
    return box, flip


def _source_box(
    left: int, top: int, size: int, source: tuple[int, int], resized: tuple[int, int]
) -> Box:
    (height, width), (resized_h, resized_w) = source, resized
    return (
        left * width / resized_w,
        top * height / resized_h,
        (left + size) * width / resized_w,
        (top + size) * height / resized_h,
    )


def _balanced(labels: NDArray[np.uint8], box: Box, size: int, category_max_ratio: float) -> bool:
    if category_max_ratio == 1.0:
        return True
    counts = np.bincount(crop_labels(labels, box, False, size).reshape(-1), minlength=IGNORE + 1)
    counts[IGNORE] = 0
    several = np.count_nonzero(counts) > 1
    return bool(several and counts.max() < category_max_ratio * counts.sum())
