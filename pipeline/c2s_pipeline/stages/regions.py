"""Stage `regions`: the CLS embedding of every class of a view's pseudo mask, seen and latent (Sec. III-C, Eq. 3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, field_validator, model_validator

from c2s_cache import ArrayRecord, Block, Cache
from c2s_cache.integrity import Finding
from c2s_cache.pseudo_mask import MIN_AREA, pseudo_mask
from c2s_pipeline.batch import Batch
from c2s_pipeline.stages.base import (
    CLS_FACTS,
    Items,
    Likeness,
    Outline,
    Stage,
    StageSettings,
    cosine,
)
from c2s_pipeline.stages.masks import GRID
from c2s_pipeline.stages.views import view_labels, view_pixels

CLS, ID, END = "regions/cls", "regions/id", "regions/end"
MAX_REGIONS = 255
"""Largest number of region tokens one view may hold."""
MIN_COSINE = 0.999
"""As for the global CLS."""
Look = Literal[
    "frame-zero",
    "frame-mean",
    "box-zero",
    "box-mean",
    "box-none",
    "square-zero",
    "square-mean",
    "square-none",
]
"""How a region is shown to the teacher: values of `masking` and `fill`."""


class RegionSettings(StageSettings):
    """Settings of the region tokens (Sec. III-C, Eq. 3).

    `masking` "frame" keeps the full frame (literal Eq. 3), "box" crops the tight box of the region
    and resizes it to the teacher's size, "square" the least square about that box, moved into the
    frame where it would leave it, so that nothing is stretched. `fill` is the value outside the mask: "zero" (black),
    "mean" (the teacher's mean colour) or, of a crop, "none": the image as it is. `min_area` is the
    smallest fraction of the view that gets a token. With `looks` a region is shown in each of these
    ways, a pass each, and its token is the mean of what these give, each brought to unit norm.
    """

    masking: Literal["frame", "box", "square"] = "frame"
    fill: Literal["zero", "mean", "none"] = "zero"
    min_area: float = Field(default=MIN_AREA, ge=0.0, lt=1.0)
    looks: tuple[Look, ...] | None = None

    @field_validator("looks", mode="before")
    @classmethod
    def _several(cls, looks: object) -> object:
        """At least two, each once, in the order of `Look`, which makes no difference."""
        if looks is None:
            return None
        every = get_args(Look)
        given = list(looks) if isinstance(looks, list | tuple) else []
        if len(given) < 2 or any(look not in every for look in given):
            raise ValueError(
                f"expected at least two of {', '.join(every)}, such as [frame-zero, square-none]; one alone is "
                "said by masking and fill"
            )
        twice = next((look for look in given if given.count(look) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice} stands there twice")
        return tuple(look for look in every if look in given)

    @model_validator(mode="after")
    def _cut(self) -> Self:
        if (self.masking, self.fill) == ("frame", "none"):
            raise ValueError(
                "fill=none shows the same image for all regions of a frame; it needs masking=box or "
                "masking=square"
            )
        return self

    def idle(self) -> Mapping[str, str]:
        """See `StageSettings.idle`."""
        if self.looks is None:
            return {"looks": "a region is shown in one way"}
        return dict.fromkeys(("masking", "fill"), "regions.looks says how regions are shown")

    @property
    def each(self) -> tuple[RegionSettings, ...]:
        """Settings of a single look each."""
        if self.looks is None:
            return (self,)
        values = (
            {
                **dict(zip(("masking", "fill"), look.split("-"), strict=True)),
                "min_area": self.min_area,
            }
            for look in self.looks
        )
        return tuple(map(RegionSettings.model_validate, values))


class Regions(Stage):
    """A token for each class that covers enough of a view."""

    name = "regions"
    Settings = RegionSettings
    settings: RegionSettings
    needs = ("masks",)
    uses = ("labels",)
    facts = (*CLS_FACTS, "num_classes")
    live = True
    inspected = (CLS, ID)

    def arrays(self, outline: Outline) -> dict[str, ArrayRecord]:
        """See `Stage.arrays`."""
        return {
            CLS: ArrayRecord(axes=("channel",), dtype="float16", end=END, chunk=64),
            ID: ArrayRecord(dtype="int16", end=END),
            END: ArrayRecord(axes=("view",), dtype="uint32"),
        }

    def compute(self, batch: Batch) -> Items:
        """Passes are batched across views."""
        m = batch.manifest
        colour = tuple(round(255 * c) for c in m.teacher.mean)
        size = m.teacher.image_size
        views = zip(
            view_pixels(batch, size),
            view_labels(batch, size),
            batch.items(GRID),
            strict=True,
        )
        shown = [
            (pixels, pseudo_mask(labels, grid, m.num_classes, inside))
            for pixels, (labels, inside), grid in views
        ]
        tokens: list[NDArray[np.float32]] = []
        for settings in self.settings.each:
            found = [masked_regions(*view, settings, colour) for view in shown]
            tokens.append(batch.embed_images(np.concatenate([images for _, images in found])))
        ends = np.cumsum([len(ids) for ids, _ in found])[:-1]
        return {CLS: np.split(_mean_direction(tokens), ends), ID: [ids for ids, _ in found]}

    def passes(self, cache: Cache) -> Mapping[str, int]:
        """One a region and look."""
        m, looks = cache.manifest, len(self.settings.each)
        ends = cache.column(END).reshape(m.extent, -1)  # of the regions of a block
        last = [m.block_range(block)[-1] for block in range(m.blocks)]
        return {self.name: looks * int(ends[last, -1].sum(dtype=np.int64))}

    def inspect(self, block: Block) -> Iterator[Finding]:
        """Ids of unseen classes, or twice in a view; tokens that are not finite."""
        m = block.manifest
        for row in block.rows.tolist():
            for view in range(m.views):
                ids = block.item(ID, row - block.start, view)
                if len(np.unique(ids)) != len(ids) or np.isin(ids, m.unseen).any():
                    what = "region ids repeat or name an unseen class"
                    yield Finding("leakage", f"row {row}", what)
                if not np.isfinite(block.item(CLS, row - block.start, view)).all():
                    yield Finding("values", f"row {row}", "a region CLS token is not finite")

    def compare(self, stored: Items, anew: Items) -> Likeness:
        """By the cosine; regions must be those of the stored grid and labels."""
        same = all(map(np.array_equal, stored[ID], anew[ID]))
        value = cosine(stored[CLS], anew[CLS]) if same else -1.0
        return Likeness(value, MIN_COSINE, "cosine of region CLS (-1: other regions)")


def masked_regions(
    image: NDArray[np.uint8],
    pseudo: NDArray[np.int16],
    settings: RegionSettings,
    mean_colour: tuple[int, ...] = (0, 0, 0),
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """One masked image per class of the pseudo mask, seen and latent (Eq. 3).

    Args:
        image: uint8 [T, T, 3], the view at the teacher's size.
        pseudo: int16 [T, T], its pseudo mask; -1 belongs to no region.
        settings: what is cut, and what is too small.
        mean_colour: colour used by `fill="mean"`.

    Returns:
        Ids int16 [R] in pseudo-mask encoding, ascending, and images uint8 [R, T, T, 3].
    """
    counts = np.bincount(pseudo[pseudo >= 0])
    ids = np.flatnonzero(counts)
    area = (counts[ids] / pseudo.size).astype(np.float32)
    ids = ids[(area >= settings.min_area) & (np.arange(len(ids)) < MAX_REGIONS)]
    fill = mean_colour if settings.fill == "mean" else (0, 0, 0)
    # numpy is slow to spread pixels over their channels: here it goes a row, or a channel, at a time
    row = np.tile(np.array(fill, np.uint8), image.shape[1]).reshape(image.shape[1:])
    class_of = np.stack([pseudo] * 3, -1)
    images = np.empty((len(ids), *image.shape), np.uint8)
    images[:] = row
    for out, region in zip(images, ids, strict=True):
        np.copyto(out, image, where=True if settings.fill == "none" else class_of == region)
        if settings.masking != "frame":
            out[:] = _crop(out, pseudo == region, settings.masking == "square")
    return ids.astype(np.int16), images


def _mean_direction(tokens: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The mean of tokens [R, D], each of unit norm; a single one as it is."""
    if len(tokens) == 1:
        return tokens[0]
    units = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in tokens]
    mean: NDArray[np.float32] = np.mean(units, 0)
    return mean


def _crop(image: NDArray[np.uint8], mask: NDArray[np.bool_], square: bool) -> NDArray[np.uint8]:
    """The tight box of a mask [T, T], or the least square about it within the frame, at the size of the image."""
    (y, bottom), (x, right) = (np.flatnonzero(mask.any(axis))[[0, -1]] for axis in (1, 0))
    height, width = bottom + 1 - y, right + 1 - x
    size = image.shape[0]
    if square:
        side = max(height, width)
        y, x = (
            min(max(0, (2 * start + length - side) // 2), size - side)
            for start, length in ((y, height), (x, width))
        )
        height = width = side
    crop = Image.fromarray(image[y : y + height, x : x + width])
    return np.asarray(crop.resize((size, size), Image.Resampling.BICUBIC))
