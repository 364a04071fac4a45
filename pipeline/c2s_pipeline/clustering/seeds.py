"""Invariant: seeds depend on features and annotation alone; there is no random initialisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from c2s_cache import IGNORE


@lru_cache(maxsize=64)
def window_positions(window: int, length: int, flush: bool = False) -> tuple[int, ...]:
    """Window starts of Eq. 2 along one axis: 0, [k/2], [k], [3k/2], ... up to `length - window`.

    [.] rounds to the nearest integer, halves up, so that k = 3 gives 0, 2, 3, 5, 6, 8, ... Empty
    if the window does not fit. As printed, the last window may end before the axis does (3 and 7 both
    do on 16 cells); `flush` adds `length - window` then.
    """
    steps = (math.floor(step * window / 2 + 0.5) for step in range(2 * length))
    starts = {s for s in steps if s <= length - window}
    if flush and starts:
        starts.add(length - window)
    return tuple(sorted(starts))


def initial_seeds(
    dense: NDArray[np.float32],
    annotated: NDArray[np.bool_],
    windows: Sequence[int],
    flush: bool = False,
) -> NDArray[np.float32]:
    """Seed features C_init (Eq. 2): window means of the tokens, annotated ones counting as zero.

    Args:
        dense: C_d, float32 [h, w, D].
        annotated: bool [h, w], True where the token is annotated with a seen class.
        windows: window sizes K.
        flush: whether the last windows end with the grid; see `window_positions`.

    Returns:
        float32 [S, D], windows in the order given, row-major within each. The divisor is always
        k^2. A window without an unannotated token gives no seed, so S may be 0.
    """
    height, width = annotated.shape
    masked = np.where(annotated[..., None], np.float32(0), dense)
    seeds = []
    for window in windows:
        for top in window_positions(window, height, flush):
            for left in window_positions(window, width, flush):
                area = np.s_[top : top + window, left : left + window]
                if not annotated[area].all():
                    seeds.append(masked[area].sum((0, 1)) / np.float32(window**2))
    return np.stack(seeds) if seeds else np.zeros((0, dense.shape[-1]), np.float32)


def annotated_cells(
    labels: NDArray[np.uint8], inside: NDArray[np.bool_], grid: tuple[int, int]
) -> NDArray[np.bool_]:
    """Which token cells are closed to clustering: annotated on at least half of their image pixels.

    Args:
        labels: uint8 [T, T] at the teacher's input size, 255 = not annotated.
        inside: bool [T, T], False on padding.
        grid: (h, w), each a divisor of T.

    Returns:
        bool [h, w]; cells that lie half or more on padding are closed too.
    """
    cells = rearrange(
        np.stack([(labels == IGNORE) & inside, inside]),
        "k (h a) (w b) -> k h w a b",
        h=grid[0],
        w=grid[1],
    )
    free, image = cells.sum((-1, -2))
    closed: NDArray[np.bool_] = (2 * free <= image) | (
        2 * image <= cells.shape[-1] * cells.shape[-2]
    )
    return closed
