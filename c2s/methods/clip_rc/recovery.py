"""Recovery decoder (Eq. 9 and 10): decoded features must still tell what the tower said. Only training has it."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from c2s.students.two_stream import TwoStreamDecoder, initialise

RecoveryLoss = Literal["l1", "l2", "kd"]


class RecoveryDecoder(nn.Module):
    """From decoded queries and patches back to descriptors and encoded patches.

    A linear layer into each stream, `layers` of the decoder's kind, a linear layer out of each. With no layers the
    linear ones stay, since descriptors are twice as wide as queries.

    Args:
        dim, heads, ffn, layers, dropout: see `TwoStreamDecoder`.
    """

    def __init__(self, dim: int, heads: int, ffn: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.from_queries, self.from_patches = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.decoder = TwoStreamDecoder(dim, heads, ffn, layers, dropout)
        self.to_descriptors, self.to_patches = nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        initialise(self)

    def forward(self, queries: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Decoded queries [B, n, D] and patches [B, N, D] -> descriptors [B, n, 2 D] and patches [B, N, D]."""
        queries, patches = self.decoder(self.from_queries(queries), self.from_patches(patches))
        return self.to_descriptors(queries), self.to_patches(patches)


def recovery_loss(
    found: Float[Tensor, "B n C"], target: Float[Tensor, "B n C"], loss: RecoveryLoss
) -> Float[Tensor, ""]:
    """How far recovered features are from what they came from, which gets no gradient.

    "l1" and "l2": mean over all numbers of the difference's size, or square. "kd", which the paper does not define:
    Kullback-Leibler divergence of the softmax over channels from the target's, mean over vectors.
    """
    found, target = found.float(), target.detach().float()
    if loss == "l1":
        return F.l1_loss(found, target)
    if loss == "l2":
        return F.mse_loss(found, target)
    logs = found.log_softmax(-1).flatten(0, 1), target.log_softmax(-1).flatten(0, 1)
    return F.kl_div(*logs, reduction="batchmean", log_target=True)
