"""Losses of masks at a few points, most of them where the masks are uncertain (Kirillov et al., PointRend)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def at_points(
    maps: Float[Tensor, "B M h w"], points: Float[Tensor, "B P 2"]
) -> Float[Tensor, "B M P"]:
    """Values of maps between their cells, bilinear; points x, y in 0 to 1 of width and height."""
    return F.grid_sample(maps, 2 * points[:, None] - 1, align_corners=False)[:, :, 0]


def brought_to(maps: Float[Tensor, "B M H W"], height: int, width: int) -> Float[Tensor, "B M p"]:
    """Means of maps over height x width cells."""
    return F.adaptive_avg_pool2d(maps, (height, width)).flatten(2)


@torch.no_grad()
def uncertain_points(
    logits: Float[Tensor, "M h w"], count: int, oversample: float, important: float
) -> Float[Tensor, "M P 2"]:
    """Points of masks: a share of them the least certain of many random ones, the others random.

    Args:
        logits: of the masks.
        count: P.
        oversample: how many times P points are looked at.
        important: share of P.
    """
    many, chosen = int(count * oversample), int(important * count)
    drawn = torch.rand(len(logits), many, 2, device=logits.device)
    certain = at_points(logits[:, None], drawn)[:, 0].abs()
    least = certain.topk(chosen, dim=1, largest=False).indices
    points = drawn.gather(1, least[..., None].expand(-1, -1, 2))
    rest = torch.rand(len(logits), count - chosen, 2, device=logits.device)
    return torch.cat([points, rest], 1)


def mask_losses(
    logits: Float[Tensor, "M P"],
    targets: Float[Tensor, "M P"],
    number: Float[Tensor, ""],
    frames: int = 1,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Binary cross-entropy, a mean over points, and dice; both summed over masks and divided by their `number`.

    Dice adds 1 above and below for each of the frames whose points those are, so that copies of an image have its dice.
    """
    bce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
    masks = logits.sigmoid()
    both, size = (masks * targets).sum(1), masks.sum(1) + targets.sum(1)
    dice = 1 - (2 * both + frames) / (size + frames)
    return bce.sum() / number, dice.sum() / number
