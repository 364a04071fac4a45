"""Invariant: a pseudo mask is a pure function of label map and cluster grid, so only the grid is stored."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from c2s_cache.manifest import IGNORE

MIN_AREA = 0.0025
"""Smallest fraction of a view that makes a region, if nothing else is asked for: half a patch of a 14 x 14 grid."""


def pseudo_mask(
    labels: NDArray[np.uint8],
    grid: NDArray[np.uint8],
    num_classes: int,
    inside: NDArray[np.bool_] | None = None,
) -> NDArray[np.int16]:
    """Seen labels where annotated, elsewhere the latent class of the nearest grid cell (Sec. III-B).

    A pixel whose own cell carries no latent class (a cell that is mostly annotated) takes the latent
    class of the cell nearest to its own; ties go to the first in row-major order.

    Args:
        labels: uint8 [S, S], seen class ids, 255 = not annotated.
        grid: uint8 [h, w], latent class of each teacher token, 255 = none.
        num_classes: N, the number of all classes of the data set.
        inside: bool [S, S], False on padding, which is never latent. Default: no padding.

    Returns:
        int16 [S, S]: class id where annotated, N + u for latent class u, -1 for neither.
    """
    height, width = labels.shape
    filled = nearest_latent(grid).astype(np.int16)
    cells = np.where(filled == IGNORE, np.int16(-1), filled + np.int16(num_classes))
    rows = np.arange(height) * grid.shape[0] // height
    cols = np.arange(width) * grid.shape[1] // width
    latent = cells.take(rows, 0).take(cols, 1)
    if inside is not None and not inside.all():
        latent[~inside] = -1
    return np.where(labels == IGNORE, latent, labels)


def nearest_latent(grid: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Give every cell without a latent class that of the nearest cell (Euclidean) that has one.

    Args:
        grid: uint8 [h, w], 255 = none.

    Returns:
        uint8 [h, w]; unchanged if no cell or every cell has a latent class.
    """
    known = grid != IGNORE
    if known.all() or not known.any():
        return grid
    have, need = np.argwhere(known), np.argwhere(~known)
    squared = ((need[:, None, :] - have[None, :, :]) ** 2).sum(-1)
    out = grid.copy()
    out[~known] = grid[known][squared.argmin(1)]
    return out
