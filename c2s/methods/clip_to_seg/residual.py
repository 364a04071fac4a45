"""Residual feature distillation (FROSTER, ICLR 2024), the third rival of Table VI."""

from __future__ import annotations

import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor, nn


class ResidualProjector(nn.Module):
    """z -> z + scale * W2 GELU(W1 z) of the unit vector z = x / |x|; the result is what is distilled.

    A student feature need not be CLIP's token itself, only reach it by a learnt correction, which
    leaves the feature free to serve the labels too. W2 starts at zero: at first the map changes
    nothing. As FROSTER's released code has it: unit features, two bias-free D x D layers, W1 after
    Kaiming, scale 0.1, distance 1 - cos to the frozen token.

    Readings, where the C2S paper only names "the residual feature distillation proposed in [26]":
    one projector serves F_g and F_l alike, the distance is summed over regions like Eq. 6, and the
    second projector of FROSTER, on trained text embeddings, has no counterpart (ours are frozen).

    Args:
        dim: D.
        scale: weight of the correction.
    """

    def __init__(self, dim: int, scale: float = 0.1) -> None:
        super().__init__()
        self.scale = scale
        first, second = (nn.Linear(dim, dim, bias=False) for _ in range(2))
        nn.init.kaiming_normal_(first.weight)
        nn.init.zeros_(second.weight)
        self.mlp = nn.Sequential(first, nn.GELU(), second)

    def forward(self, features: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows D"]:
        """Corrected unit features: float [..., D] to float [..., D]."""
        unit = functional.normalize(features, dim=-1)
        corrected: Tensor = unit + self.scale * self.mlp(unit)
        return corrected
