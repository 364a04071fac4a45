"""Invariant: the region images of a view are its pixels times the binary mask of one class each (Eq. 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from c2s_cache.schema import MAX_REGIONS


class RegionConfig(BaseModel):
    """Settings of the region tokens (Sec. III-C, Eq. 3).

    `masking` "frame" keeps the full frame (literal Eq. 3), "box" crops the tight box of the region
    and resizes it to the teacher's size. `fill` is the value outside the mask: "zero" (black) or
    "mean" (the teacher's mean colour). `min_area` is the smallest fraction of the view that gets a
    token; 0.0025 is half a patch of a 14 x 14 grid.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    masking: Literal["frame", "box"] = "frame"
    fill: Literal["zero", "mean"] = "zero"
    min_area: float = Field(default=0.0025, ge=0.0, lt=1.0)


@dataclass(frozen=True)
class Regions:
    """Region images of one view.

    `ids` int16 [R] in pseudo-mask encoding, ascending; `area` float32 [R], fraction of the view;
    `images` uint8 [R, T, T, 3]; `skipped` counts regions below the minimum area.
    """

    ids: NDArray[np.int16]
    area: NDArray[np.float32]
    images: NDArray[np.uint8]
    skipped: int


def masked_regions(
    image: NDArray[np.uint8],
    pseudo: NDArray[np.int16],
    config: RegionConfig,
    mean_colour: tuple[int, int, int] = (0, 0, 0),
) -> Regions:
    """One masked image per class of the pseudo mask, seen and latent (Eq. 3).

    Args:
        image: uint8 [T, T, 3], the view at the teacher's size.
        pseudo: int16 [T, T], its pseudo mask; -1 belongs to no region.
        config: settings.
        mean_colour: colour used by `fill="mean"`.
    """
    counts = np.bincount(pseudo[pseudo >= 0])
    ids = np.flatnonzero(counts)
    area = (counts[ids] / pseudo.size).astype(np.float32)
    large = (area >= config.min_area) & (np.arange(len(ids)) < MAX_REGIONS)
    fill = mean_colour if config.fill == "mean" else (0, 0, 0)
    # numpy is slow to spread pixels over their channels: here it goes a row, or a channel, at a time
    row = np.tile(np.array(fill, np.uint8), image.shape[1]).reshape(image.shape[1:])
    class_of = np.stack([pseudo] * 3, -1)
    images = np.empty((int(large.sum()), *image.shape), np.uint8)
    images[:] = row
    for out, region in zip(images, ids[large], strict=True):
        np.copyto(out, image, where=class_of == region)
        if config.masking == "box":
            out[:] = _tight(out, pseudo == region)
    return Regions(ids[large].astype(np.int16), area[large], images, int((~large).sum()))


def _tight(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    crop = image[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    size = (image.shape[1], image.shape[0])
    return np.asarray(Image.fromarray(crop).resize(size, Image.Resampling.BICUBIC))
