"""ZeroSeg's distillation of segment tokens (Sec. 3.2), and terms beside it that keep the segments apart."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

Distance = Literal["l1", "cosine"]


@dataclass(frozen=True)
class Measure:
    """How far apart two tokens are.

    Attributes:
        distance: "l1", or 1 - cosine.
        summed: of "l1" the sum over the channels; else their mean.
        unit: tokens are brought to unit norm before.
    """

    distance: Distance = "l1"
    summed: bool = False
    unit: bool = False

    def pairs(
        self, first: Float[Tensor, "B n D"], second: Float[Tensor, "B J D"]
    ) -> Float[Tensor, "B n J"]:
        """Distances of all pairs."""
        if self.distance == "cosine":
            return 1 - F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).mT
        if self.unit:
            first, second = F.normalize(first, dim=-1), F.normalize(second, dim=-1)
        far = torch.cdist(first, second, p=1.0)
        return far if self.summed else far / first.shape[-1]

    def own(
        self, first: Float[Tensor, "*b D"], second: Float[Tensor, "*b D"]
    ) -> Float[Tensor, "*b"]:
        """Distances of the tokens at the same place."""
        if self.distance == "cosine":
            return 1 - F.cosine_similarity(first, second, dim=-1)
        if self.unit:
            first, second = F.normalize(first, dim=-1), F.normalize(second, dim=-1)
        far = (first - second).abs()
        return far.sum(-1) if self.summed else far.mean(-1)


def match(far: Float[Tensor, "B m J"], valid: Bool[Tensor, "B J"]) -> Float[Tensor, ""]:
    """Eq. 1: sum over the segments of the distance to the nearest target; mean over the images that have a target.

    Args:
        far: distances.
        valid: slots that hold a target.
    """
    nearest = far.masked_fill(~valid[:, None], torch.inf).amin(2)
    some = valid.any(1)
    return torch.where(some, nearest.sum(1), 0).sum() / some.sum().clamp(min=1)


def reverse(far: Float[Tensor, "B m J"], valid: Bool[Tensor, "B J"]) -> Float[Tensor, ""]:
    """The same the other way round: m times the mean over the targets of the distance to the nearest segment."""
    return far.shape[1] * mean_over(far.amin(1), valid)


def mean_over(terms: Float[Tensor, "B J"], valid: Bool[Tensor, "B J"]) -> Float[Tensor, ""]:
    """Mean over the valid slots of each image, then over the images that have one; 0 if none has."""
    per_image = torch.where(valid, terms, 0).sum(1) / valid.sum(1).clamp(min=1)
    return per_image.sum() / valid.any(1).sum().clamp(min=1)


def within(
    places: Float[Tensor, "B J L"], values: Float[Tensor, "B L C"]
) -> Float[Tensor, "B J C"]:
    """Means of values over the patches that each target covers, from its share of each; 0 where it covers none."""
    total = places.sum(-1, keepdim=True)
    return places @ values / total.clamp(min=torch.finfo(places.dtype).tiny)


@lru_cache(maxsize=8)
def cell_places(scales: tuple[int, ...], height: int, width: int) -> Tensor:
    """Share of each of height x width patches that each cell covers, grid after grid: float32 [J, height * width]."""
    found = []
    for scale in scales:
        rows, columns = _overlaps(scale, height), _overlaps(scale, width)
        found.append(torch.einsum("ry,cx->rcyx", rows, columns).reshape(scale**2, height * width))
    return torch.cat(found) if found else torch.zeros(0, height * width)


def _overlaps(cells: int, length: int) -> Tensor:
    """Length that each of `cells` equal parts of an axis has in common with each of its positions: [cells, length]."""
    edges = torch.arange(cells + 1, dtype=torch.float64) * (length / cells)
    start = torch.arange(length, dtype=torch.float64)
    common = torch.minimum(edges[1:, None], start + 1) - torch.maximum(edges[:-1, None], start)
    return common.clamp(min=0).float()


def collapse(
    maps: Float[Tensor, "B m L"], segments: Float[Tensor, "B m D"], far: Float[Tensor, "B m J"]
) -> dict[str, Float[Tensor, ""]]:
    """What shows that segments have become one, means over the images.

    Args:
        maps: shares of the patches.
        segments: their tokens.
        far: distances to the targets, infinite in empty slots; J may be 0.

    Returns:
        "used": segments that win a patch; "entropy" of the shares, as a part of log m; "cosine" between the segments
        of an image; "distinct": targets that are nearest to a segment.
    """
    count = maps.shape[1]
    entropy = torch.special.entr(maps).sum(1).mean() / torch.log(maps.new_tensor(float(count)))
    unit = F.normalize(segments, dim=-1)
    between = (unit.sum(1).square().sum(-1) - count) / (count * (count - 1))
    found = {"used": _distinct(maps.argmax(1), count), "entropy": entropy, "cosine": between.mean()}
    if far.shape[2]:
        found["distinct"] = _distinct(far.argmin(2), far.shape[2])
    return found


def _distinct(indices: Tensor, count: int) -> Tensor:
    """Mean over the images of how many different values indices [B, n] below `count` have."""
    seen = torch.zeros(len(indices), count, device=indices.device).scatter_(1, indices, 1.0)
    return seen.sum(1).mean()
