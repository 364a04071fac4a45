"""Which query answers for which segment: the cheapest pairs, image by image (Carion et al., ECCV 2020)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor


class Matches(NamedTuple):
    """Pairs of queries and segments: int64 [M] each, numbers of the image, of the query and of the segment."""

    image: Tensor
    query: Tensor
    segment: Tensor


def cost(
    logits: Float[Tensor, "B Q P"],
    targets: Float[Tensor, "B N P"],
    likely: Float[Tensor, "B Q N"],
    weights: tuple[float, float, float],
    frames: int = 1,
) -> Float[Tensor, "B Q N"]:
    """What a query costs that answers for a segment: by binary cross-entropy and dice at the same points of all
    masks of an image, less the probability of its class.

    Args:
        logits: of the queries' masks at P points.
        targets: of the segments, 0 to 1.
        likely: probability of each segment's class.
        weights: of the three, in that order.
        frames: of a clip, whose points those are; dice adds 1 above and below for each.
    """
    logits, targets = logits.float(), targets.float()
    inside, outside = F.softplus(-logits), F.softplus(logits)
    other = outside.sum(-1)[..., None] - outside @ targets.mT + inside @ targets.mT
    masks = logits.sigmoid()
    both, size = masks @ targets.mT, masks.sum(-1)[..., None] + targets.sum(-1)[:, None]
    dice = 1 - (2 * both + frames) / (size + frames)
    bce, dices, classes = weights
    total: Tensor = bce * other / logits.shape[-1] + dices * dice - classes * likely
    return total


@torch.no_grad()
def match(costs: Float[Tensor, "B Q N"], there: Bool[Tensor, "B N"]) -> Matches:
    """The cheapest assignment of each image, with as many pairs as it has segments, or queries.

    Args:
        costs: finite or not; what is not is chosen last.
        there: which segments exist.
    """
    largest = torch.finfo(costs.dtype).max / 1e6
    table = costs.nan_to_num(largest, largest, largest).cpu()
    found = []
    for i, (each, real) in enumerate(zip(table, there.cpu(), strict=True)):
        places = torch.nonzero(real)[:, 0]
        rows, columns = linear_sum_assignment(each[:, places].numpy())
        segments = places[torch.from_numpy(columns)]
        found.append((torch.full_like(segments, i), torch.from_numpy(rows), segments))
    image, query, segment = (
        torch.cat(parts).to(costs.device) for parts in zip(*found, strict=True)
    )
    return Matches(image, query, segment)


def likelihood(
    probabilities: Float[Tensor, "B Q K"], channels: Int[Tensor, "B N"]
) -> Float[Tensor, "B Q N"]:
    """Probability that queries give to the class of each segment; 0 where it has none (channel -1)."""
    index = channels.clamp(min=0)[:, None].expand(-1, probabilities.shape[1], -1)
    found: Tensor = probabilities.gather(2, index) * (channels >= 0)[:, None]
    return found
