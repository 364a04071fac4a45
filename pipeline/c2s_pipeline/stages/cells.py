"""Stage `cells`: the teacher's image embedding of every cell of grids over each view, as ZeroSeg distils them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from c2s_cache import ArrayRecord, Block, Cache
from c2s_cache.integrity import Finding
from c2s_cache.manifest import USABLE
from c2s_cache.views import crop_image
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
from c2s_pipeline.stages.images import image
from c2s_pipeline.stages.views import BOX, FLIP, view_pixels

PATH = "cells/cls"
MIN_COSINE = 0.999
"""As for the global CLS."""


class CellSettings(StageSettings):
    """Cells of grids of `scales` x `scales`, cut from the source "image", or from the "view" at the teacher's size,
    which shows less detail."""

    scales: tuple[int, ...] = Field(default=(2, 3, 4), min_length=1)
    source: Literal["image", "view"] = "image"

    @field_validator("scales")
    @classmethod
    def _grids(cls, scales: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(scales)) < len(scales) or not all(1 <= s <= 16 for s in scales):
            raise ValueError(f"{list(scales)} should be distinct whole numbers from 1 to 16")
        return scales


class Cells(Stage):
    """A token for every cell: scale after scale, in rows, as the view is seen."""

    name = "cells"
    Settings = CellSettings
    settings: CellSettings
    needs = ("views",)
    facts = CLS_FACTS
    default = False
    live = True
    inspected = (PATH,)

    def axes(self, outline: Outline) -> dict[str, int]:
        """The cells of all grids."""
        return {"cell": self._count}

    def arrays(self, outline: Outline) -> dict[str, ArrayRecord]:
        """See `Stage.arrays`."""
        return {PATH: ArrayRecord(axes=("view", "cell", "channel"), dtype="float16")}

    def compute(self, batch: Batch) -> Items:
        """Every cell is shown to the teacher at its whole native size; passes are batched across views."""
        teacher, views = batch.manifest.teacher, batch.manifest.views
        side, scales = teacher.image_size, self.settings.scales
        crops = []
        for n, (box, flip) in enumerate(zip(batch.items(BOX), batch.items(FLIP), strict=True)):
            if self.settings.source == "image":
                shown, mirrored = image(batch, n // views), bool(flip)
                boxes = cell_boxes(box, mirrored, scales)
            else:
                shown, mirrored = view_pixels(batch, side)[n], False  # it is mirrored already
                boxes = cell_boxes(np.array([0.0, 0, side, side]), mirrored, scales)
            crops += [crop_image(shown, b, mirrored, side, teacher.interpolation) for b in boxes]
        cls = batch.embed_images(np.stack(crops)) if crops else np.zeros((0, teacher.dim))
        return {PATH: list(cls.reshape(-1, self._count, teacher.dim))}

    def passes(self, cache: Cache) -> Mapping[str, int]:
        """One a cell."""
        usable = int(np.count_nonzero(cache.column(USABLE)))
        return {self.name: usable * cache.manifest.views * self._count}

    def inspect(self, block: Block) -> Iterator[Finding]:
        """Tokens that are not finite."""
        finite = np.isfinite(block.arrays[PATH]).all((1, 2, 3))
        for row in block.rows.tolist():
            if not finite[row - block.start]:
                yield Finding("values", f"row {row}", "the CLS token of a cell is not finite")

    def compare(self, stored: Items, anew: Items) -> Likeness:
        """By the cosine."""
        return Likeness(cosine(stored[PATH], anew[PATH]), MIN_COSINE, "cosine of cells")

    @property
    def _count(self) -> int:
        return sum(scale**2 for scale in self.settings.scales)


def cell_boxes(
    box: NDArray[np.float64], flip: bool, scales: tuple[int, ...]
) -> NDArray[np.float64]:
    """Where the cells of a view lie in its image.

    Args:
        box: float64 [4], x0, y0, x1, y1 of the view in source pixels.
        flip: whether the view is mirrored: cells are in the order in which they are then seen.
        scales: cells along an edge of each grid.

    Returns:
        float64 [sum of scale^2, 4], grid after grid, row after row.
    """
    found = []
    for scale in scales:
        x, y = (np.linspace(box[i], box[i + 2], scale + 1) for i in (0, 1))
        columns = range(scale)[::-1] if flip else range(scale)
        found += [(x[c], y[r], x[c + 1], y[r + 1]) for r in range(scale) for c in columns]
    return np.array(found)
