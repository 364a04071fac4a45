"""Dense distillation, which the paper does not have: the feature map against CLIP's dense features, cell by cell."""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from jaxtyping import Bool, Float, Int
from torch import Tensor


def dense_distillation(
    features: Float[Tensor, "B D h w"],
    tokens: Float[Tensor, "B gh gw D"],
    extent: Int[Tensor, "B 4"] | None,
    side: int,
) -> Float[Tensor, ""]:
    """1 - cosine between a cell's mean feature and the teacher's token of it; mean over the cells inside the images.

    Args:
        features: F, float [B, D, h, w].
        tokens: dense features of the views, float [B, gh, gw, D].
        extent: as `Batch.extent`, in pixels; a cell is inside where its centre is. None: all are.
        side: S, of the views in pixels.

    Returns:
        Scalar; 0 where no cell is inside.
    """
    height, width = tokens.shape[1:3]
    terms = 1 - functional.cosine_similarity(cell_means(features, height, width), tokens, dim=-1)
    if extent is None:
        return terms.mean()
    inside = cells_inside(extent, height, width, side)
    return torch.where(inside, terms, 0).sum() / inside.sum().clamp(min=1)


def cell_means(
    features: Float[Tensor, "B D h w"], height: int, width: int
) -> Float[Tensor, "B {height} {width} D"]:
    """Means of a feature map [B, D, h, w] over the cells of another grid, by area: [B, height, width, D]."""
    rows = _shares(height, features.shape[2], features)
    columns = _shares(width, features.shape[3], features)
    return torch.einsum("yh,bdhw,xw->byxd", rows, features, columns)


def _shares(cells: int, length: int, like: Tensor) -> Tensor:
    """Share that each of `length` positions has in each of as many equal parts of the axis: [cells, length]."""
    edges = torch.arange(cells + 1, dtype=like.dtype, device=like.device) * (length / cells)
    start = torch.arange(length, dtype=like.dtype, device=like.device)
    common = torch.minimum(edges[1:, None], start + 1) - torch.maximum(edges[:-1, None], start)
    return common.clamp(min=0) * (cells / length)


def cells_inside(
    extent: Int[Tensor, "B 4"], height: int, width: int, side: int
) -> Bool[Tensor, "B {height} {width}"]:
    """Cells of a grid over views of `side` pixels whose centre shows the image: bool [B, height, width]."""
    y, x = (
        (torch.arange(cells, device=extent.device) + 0.5) * (side / cells)
        for cells in (height, width)
    )
    top, left, bottom, right = extent[:, :, None].unbind(1)  # each [B, 1]
    rows, columns = (top <= y) & (y < bottom), (left <= x) & (x < right)
    return rows[:, :, None] & columns[:, None]
