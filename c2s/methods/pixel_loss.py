"""Pixel-level supervision by the pseudo mask (Sec. III-D, Eq. 7): focal + dice + cross-entropy.

Targets are int64 [B, H, W] channel indices, -1 = no supervision there. Logits may hold -inf in the
channels that an image does not have; such a channel contributes nothing to any of the three losses.
Focal and dice follow the ZegCLIP family (sigmoid per channel, divided by the number of present
masks), except that pixels without a target are left out instead of counting as negatives of every
class.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from c2s.methods.feature_map import FeatureMap

FOCAL_ALPHA = 0.25
"""Weight of the positives."""


def class_scores(
    features: FeatureMap,
    seen: Float[Tensor, "#B Ns D"],
    latent: Float[Tensor, "B U D"],
    alpha: float,
    beta: float,
    normalize: bool = True,
) -> Float[Tensor, "B Ns+U h w"]:
    """X = cat(X_s, X_u) with X_s = alpha F^T A_s and X_u = beta cos(F, A'_u).

    Args:
        features: F, [B, D, h, w].
        seen: A_s, float [1, Ns, D] or of each image [B, Ns, D], unit norm.
        latent: A'_u, float [B, U, D]; U may be 0.
        alpha: scale of the seen scores.
        beta: scale of the latent scores.
        normalize: take F at unit norm in X_s as well, so that alpha is the scale of a cosine and
            both halves are bounded alike; False is the printed dot product.

    Returns:
        float [B, Ns + U, h, w].
    """
    # The norms divide the scores, not F: the same cosines with far less memory traffic.
    norms = features.norms().clamp(min=1e-12)  # [B, 1, h * w]
    embeddings = torch.cat(
        [alpha * seen.expand(len(latent), -1, -1), beta * functional.normalize(latent, dim=-1)], 1
    )
    scores = features.products(embeddings)
    if normalize:
        scores = scores / norms
    else:  # the seen scores as they are
        count = seen.shape[1]
        bare, cosines = scores[:, :count], scores[:, count:]
        scores = torch.cat([bare, cosines / norms], 1)
    return rearrange(scores, "b c (h w) -> b c h w", h=features.height)


def present_masks(target: Int[Tensor, "B H W"], channels: int) -> Bool[Tensor, "B {channels}"]:
    """Which channels occur in each target: bool [B, C]."""
    found = torch.zeros(len(target), channels + 1, dtype=torch.bool, device=target.device)
    found.scatter_(1, (target + 1).flatten(1), True)
    return found[:, 1:]


def focal_loss(
    logits: Float[Tensor, "B C H W"],
    target: Int[Tensor, "B H W"],
    alpha: float = FOCAL_ALPHA,
    gamma: float = 2.0,
) -> Float[Tensor, ""]:
    """Sigmoid focal loss over all channels and all supervised pixels.

    ZegCLIP's runs over all pixels: those without a label are negatives of every channel there, and are
    left out here, of the divisor too.

    With p = sigmoid(x) and t = 1 in the pixel's own channel, else 0, a pixel-channel costs
    -alpha (1 - p)^gamma log p where t = 1 and -(1 - alpha) p^gamma log(1 - p) where t = 0. Mean
    over the supervised pixels of an image, sum over channels and images, divided by the number of
    masks (pairs of image and channel present in its target; at least 1).

    Args:
        logits: X, float [B, C, H, W].
        target: int64 [B, H, W], -1 = not supervised.
        alpha: weight of the positives.
        gamma: focusing exponent.

    Returns:
        Scalar.
    """
    supervised = target >= 0
    # Every channel as a negative first; then the own channel is exchanged, so no one-hot map is
    # built.
    own = logits.gather(1, target.clamp(min=0)[:, None])[:, 0]
    positive = alpha * (1 - own.sigmoid()).pow(gamma) * functional.softplus(-own)
    per_pixel = _negative(logits, alpha, gamma).sum(1) - _negative(own, alpha, gamma) + positive
    per_image = torch.where(supervised, per_pixel, torch.zeros_like(per_pixel)).sum((1, 2))
    per_image = per_image / supervised.sum((1, 2)).clamp(min=1)
    return per_image.sum() / present_masks(target, logits.shape[1]).sum().clamp(min=1)


def dice_loss(logits: Float[Tensor, "B C H W"], target: Int[Tensor, "B H W"]) -> Float[Tensor, ""]:
    """Dice loss on sigmoid(x) over the channels present in each image, with +1 smoothing.

    1 - (2 sum p t + 1) / (sum p + sum t + 1), sums over the supervised pixels of the image; summed
    over the present pairs of image and channel and divided by their number (at least 1).

    Args:
        logits: X, float [B, C, H, W].
        target: int64 [B, H, W], -1 = not supervised.

    Returns:
        Scalar.
    """
    channels = logits.shape[1]
    supervised = (target >= 0)[:, None]
    prob = torch.where(supervised, logits.sigmoid(), torch.zeros_like(logits))
    index = (target + 1).flatten(1)  # column 0 collects what is not supervised
    own = prob.gather(1, target.clamp(min=0)[:, None])[:, 0].flatten(1)
    empty = prob.new_zeros(len(target), channels + 1)
    overlap = empty.scatter_add(1, index, own)[:, 1:]
    size = empty.scatter_add(1, index, torch.ones_like(own))[:, 1:]
    dice = 1 - (2 * overlap + 1) / (prob.sum((2, 3)) + size + 1)
    present = present_masks(target, channels)
    return torch.where(present, dice, torch.zeros_like(dice)).sum() / present.sum().clamp(min=1)


def cross_entropy_loss(
    logits: Float[Tensor, "B C H W"], target: Int[Tensor, "B H W"]
) -> Float[Tensor, ""]:
    """Softmax cross-entropy, mean over the supervised pixels of the batch; 0 if there is none.

    Args:
        logits: X, float [B, C, H, W].
        target: int64 [B, H, W], -1 = not supervised.

    Returns:
        Scalar.
    """
    total = functional.cross_entropy(logits, target, ignore_index=-1, reduction="sum")
    return total / (target >= 0).sum().clamp(min=1)


def _negative(logits: Tensor, alpha: float, gamma: float) -> Tensor:
    return (1 - alpha) * logits.sigmoid().pow(gamma) * functional.softplus(logits)
