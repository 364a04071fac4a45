"""Invariant: imported masks and clustered ones are the same thing: latent ids 0..U-1 of the cells of a view."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2s_cache import IGNORE, DataError
from c2s_cache.views import Box, source_cells
from c2s_pipeline.clustering.latent import MAX_LATENT


def mask_map(found: NDArray[Any], image_id: str) -> NDArray[np.int64]:
    """A map of mask numbers, -1 where there is none, of what was read for an image.

    Args:
        found: whole numbers [h, w] (none: negative, or the largest value of an unsigned type), or bool [n, h, w], of
            which the smaller masks lie above the larger ones. Either covers the whole upright image, at any size.
        image_id: for messages.

    Raises:
        DataError: another shape or type, or nothing in it.
    """
    if found.size and found.ndim == 3 and found.dtype == bool:
        areas = found.sum((1, 2))
        numbers = np.full(found.shape[1:], -1, np.int64)
        for number in np.argsort(-areas, kind="stable"):
            numbers[found[number]] = number
        return numbers
    if found.size and found.ndim == 2 and found.dtype.kind in "iu":
        numbers = found.astype(np.int64)
        none = np.iinfo(found.dtype).max if found.dtype.kind == "u" else -1
        return np.where((numbers < 0) | (numbers == none), -1, numbers)
    raise DataError(
        f"masks of the image {image_id}: expected whole numbers [h, w] or bool [n, h, w], got {found.dtype} "
        f"{list(found.shape)}."
    )


def imported_grid(
    numbers: NDArray[np.int64],
    size: tuple[int, int],
    box: Box | NDArray[np.float64],
    flip: bool,
    closed: NDArray[np.bool_],
) -> NDArray[np.uint8]:
    """Latent ids of the cells of a view: the mask at the centre of each, numbered by size.

    Args:
        numbers: int64 [h, w] as `mask_map` gives it.
        size: height and width of the image.
        box, flip: of the view.
        closed: bool [cells, cells]: annotated, or padding.

    Returns:
        uint8 [cells, cells], 255 where closed, without a mask, or of one beyond the 254 largest.
    """
    rows, cols = source_cells(size, numbers.shape, box, flip, len(closed))
    seen = np.where(closed, -1, numbers.take(rows, 0).take(cols, 1))
    values, counts = np.unique(seen[seen >= 0], return_counts=True)
    kept = values[np.argsort(-counts, kind="stable")][:MAX_LATENT]
    grid = np.full(seen.shape, IGNORE, np.uint8)
    for latent, value in enumerate(kept):
        grid[seen == value] = latent
    return grid
