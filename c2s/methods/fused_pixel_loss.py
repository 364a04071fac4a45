"""Invariant: the losses are those of `pixel_loss`, their gradient is exact, and a map of scores is passed over seldom.

At image resolution, scores of many classes are by far the largest tensors of a step. Left to autograd, the three
losses pass over them about a hundred times; in closed form, with the gradient taken along, forty times do.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as functional
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from c2s.methods.pixel_loss import FOCAL_ALPHA, present_masks

CHUNK_BYTES = 2**28
"""Scores at the target's resolution that are worked on at a time; four maps of this size are held."""
CPU_CHUNK_BYTES = 2**22
"""The same on a CPU, whose caches hold less."""


@runtime_checkable
class PixelWeights(Protocol):
    """Weights of the three losses."""

    @property
    def focal(self) -> float: ...
    @property
    def dice(self) -> float: ...
    @property
    def ce(self) -> float: ...


def pixel_losses(
    scores: Float[Tensor, "B C h w"],
    target: Int[Tensor, "B H W"],
    absent: Bool[Tensor, "B C"],
    weights: PixelWeights,
    negative: bool = False,
    masks: Float[Tensor, ""] | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """Focal, dice and cross-entropy (Eq. 7) at the resolution of the target, and their weighted sum.

    Images take turns where all together would be too large. The losses are sums over images divided by
    counts of the batch, so the turns add up to the same losses and gradients.

    Args:
        scores: X, float [B, C, h, w], brought up bilinearly.
        target: int64 [B, H, W], -1 = not supervised.
        absent: bool [B, C], channels that an image does not have, maybe all; no target names one.
        weights: of the three losses.
        negative: pixels that are not supervised are negatives of every channel in focal and dice, as in the released
            code of the ZegCLIP family, and not left out.
        masks: what focal and dice are divided by; default: the number of pairs of image and channel in this batch.

    Returns:
        Scalars "pixel", the sum, through which the gradient goes, and "focal", "dice" and "ce" without one.
    """
    names = ("focal", "dice", "ce")
    if scores.shape[1] == 0:  # no class is known and none is latent
        none = scores.sum()
        return {"pixel": none, **dict.fromkeys(names, none.detach())}
    total, parts = _PixelLosses.apply(
        scores, target, absent, tuple(getattr(weights, n) for n in names), negative, masks
    )
    return {"pixel": total, **dict(zip(names, parts.unbind(), strict=True))}


class _Counts(NamedTuple):
    """What the batch's sums are divided by, scalars of at least 1: pairs of image and channel present in
    its target, and supervised pixels."""

    masks: Tensor
    pixels: Tensor


class _PixelLosses(Function):
    @staticmethod
    def forward(
        ctx: Any,
        scores: Tensor,
        target: Tensor,
        absent: Tensor,
        weights: tuple[float, float, float],
        negative: bool,
        masks: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        channels, (height, width) = scores.shape[1], target.shape[1:]
        if masks is None:
            masks = present_masks(target, channels).sum()
        counts = _Counts(
            masks.clamp(min=1).to(scores.dtype),
            (target >= 0).sum().clamp(min=1).to(scores.dtype),
        )
        chunk = CPU_CHUNK_BYTES if scores.device.type == "cpu" else CHUNK_BYTES
        size = max(1, chunk // (4 * channels * height * width))
        losses, slopes = scores.new_zeros(3), list[Tensor]()
        for start in range(0, len(scores), size):
            turn = slice(start, start + size)
            with torch.enable_grad():
                coarse = scores[turn].detach().requires_grad_()
                fine = _resize_bilinear(coarse, height, width)
            found, slope = _losses_and_gradient(
                fine.detach(), target[turn], absent[turn], counts, weights, negative
            )
            losses += found
            slopes += torch.autograd.grad(fine, coarse, slope)
        ctx.save_for_backward(torch.cat(slopes))
        ctx.mark_non_differentiable(losses)
        total = sum(
            (w * loss for w, loss in zip(weights, losses, strict=True)), losses.new_zeros(())
        )
        return total, losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return slope * grad, None, None, None, None, None


def _resize_bilinear(scores: Tensor, height: int, width: int) -> Tensor:
    """Scores [b, C, h, w] at H x W, never the same memory."""
    if scores.shape[2:] == (height, width):
        return scores.clone()
    return functional.interpolate(scores, (height, width), mode="bilinear", align_corners=False)


def _losses_and_gradient(
    x: Tensor,
    target: Tensor,
    absent: Tensor,
    counts: _Counts,
    weights: tuple[float, float, float],
    negative: bool = False,
) -> tuple[Tensor, Tensor]:
    """Some images' share of the three losses, and the gradient of their weighted sum.

    With p = sigmoid(x) and u = p^2 softplus(x), a pixel that counts, supervised or a negative, has in every channel the
    slope

        focal: k (1 - alpha) (2 (1 - p) u + p^3), k = 1 / (pixels of its image x masks)
        dice:  c p (1 - p), c = (2 overlap + 1) / (sum p + sum t + 1)^2 / masks
        cross-entropy: softmax(x) / pixels of the batch, of a supervised one

    and a supervised one in its own channel the focal loss of a positive in place of a negative's, -2 p (1 - p) / (sum p
    + sum t + 1) / masks, and -1 / pixels of the batch beside them.

    Args:
        x: scores [b, C, H, W], which are overwritten.
        target, absent, weights, negative: as for `pixel_losses`.
        counts: of the batch.

    Returns:
        Focal, dice and cross-entropy [3], and the gradient [b, C, H, W].
    """
    # Below every score, yet finite: an unsupervised pixel may look at a channel that is absent.
    x.masked_fill_(absent[:, :, None, None], torch.finfo(x.dtype).min / 4)
    index = target.clamp(min=0)[:, None]
    supervised = (target >= 0).to(x.dtype)
    own_mask = supervised.flatten(1)[:, :, None]  # [b, H W, 1]
    mask = torch.ones_like(own_mask) if negative else own_mask
    per_mask = 1 / counts.masks
    k = per_mask / mask.sum(1).clamp(min=1)  # [b, 1]
    focal_weight, dice_weight, ce_weight = weights

    own_x = x.gather(1, index)
    log_softmax = x.log_softmax(1)
    own_log = log_softmax.gather(1, index)
    cross_entropy = -torch.bmm(own_log.flatten(2), own_mask).sum() / counts.pixels
    u = functional.softplus(x)
    p = x.sigmoid_()
    u.mul_(p).mul_(p)

    own_p = p.gather(1, index)
    own_q = 1 - own_p
    below = functional.softplus(-own_x)  # -log p; softplus(x) is x more
    as_negative = (1 - FOCAL_ALPHA) * own_p.square() * (own_x + below)
    positive = FOCAL_ALPHA * own_q.square() * below
    exchanged = torch.bmm((positive - as_negative).flatten(2), own_mask)[:, 0]  # [b, 1]
    all_negative = torch.bmm(u.flatten(2), mask).sum(1)
    focal = (k * ((1 - FOCAL_ALPHA) * all_negative + exchanged)).sum()

    column = (target + 1).flatten(1)  # column 0 collects what is not supervised
    empty = p.new_zeros(len(p), p.shape[1] + 1)
    overlap = empty.scatter_add(1, column, own_p.flatten(1))[:, 1:]
    size = empty.scatter_add(1, column, torch.ones_like(own_p).flatten(1))[:, 1:]
    area = torch.bmm(p.flatten(2), mask)[..., 0] + size + 1  # [b, C]
    scale = present_masks(target, p.shape[1]) * per_mask
    dice = (scale * (1 - (2 * overlap + 1) / area)).sum()

    f = (focal_weight * (1 - FOCAL_ALPHA) * k)[:, :, None, None]
    c = (dice_weight * scale * (2 * overlap + 1) / area.square())[:, :, None, None]
    e = ce_weight / counts.pixels
    # f (2 (1 - p) u + p^3) + c p (1 - p) = p (p (f p - c) + c - 2 f u) + 2 f u
    slope = torch.addcmul(-c, p, f)
    torch.addcmul(c, slope, p, out=slope)
    slope.addcmul_(u, f, value=-2).mul_(p).addcmul_(u, f, value=2)
    slope.addcmul_(log_softmax.exp_(), e * supervised[:, None])
    of_negative = (1 - FOCAL_ALPHA) * own_p.square() * (2 * own_q * (own_x + below) + own_p)
    of_positive = -FOCAL_ALPHA * own_q.square() * (2 * own_p * below + own_q)
    of_overlap = (2 * dice_weight * scale / area).gather(1, index.flatten(1)).view_as(own_p)
    own = focal_weight * k[:, :, None, None] * (of_positive - of_negative)
    own = (own - of_overlap * own_p * own_q - e) * supervised[:, None]
    slope.scatter_add_(1, index, own)
    if not negative:
        slope.mul_(supervised[:, None])
    return torch.stack([focal, dice, cross_entropy]), slope
