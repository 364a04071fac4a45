"""Decoder of two streams that look at each other: class queries and image patches (CLIP-RC, Eq. 7)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

STD = 0.02


class CrossAttention(nn.Module):
    """Attention of one stream to the other.

    torch's own turns the tokens round on the way, which ties an exported program to the size of its batch.

    Args:
        dim: D.
        heads: a divisor of D.
        dropout: share of the attention that training drops.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        """own [B, n, D] and other [B, m, D] -> [B, n, D]."""
        asked = ((self.q, own), (self.k, other), (self.v, other))
        q, k, v = (rearrange(f(x), "b n (h c) -> b h n c", h=self.heads) for f, x in asked)
        dropout = self.dropout if self.training else 0.0
        seen = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        out: Tensor = self.out(rearrange(seen, "b h n c -> b n (h c)"))
        return out


class CrossAttentionLayer(nn.Module):
    """Attention of one stream to the other and an MLP, each with a residual connection and a norm behind it.

    Args:
        dim: D.
        heads: of the attention; a divisor of D.
        ffn: width of the MLP.
        dropout: of attention, MLP and residual connections.
    """

    def __init__(self, dim: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.attention = CrossAttention(dim, heads, dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, ffn)
        self.linear2 = nn.Linear(ffn, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        """own [B, n, D] and other [B, m, D] -> [B, n, D]."""
        own = self.norm1(own + self.dropout(self.attention(own, other)))
        hidden = self.dropout(F.relu(self.linear1(own)))
        out: Tensor = self.norm2(own + self.dropout(self.linear2(hidden)))
        return out


class TwoStreamDecoder(nn.Module):
    """q <- D_q(q, I), I <- D_v(I, q), side by side: both layers see what the other stream was before.

    Args:
        dim, heads, ffn, dropout: of every layer; see `CrossAttentionLayer`.
        layers: of each stream; 0: none.
    """

    def __init__(self, dim: int, heads: int, ffn: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.query_layers, self.patch_layers = (
            nn.ModuleList([CrossAttentionLayer(dim, heads, ffn, dropout) for _ in range(layers)])
            for _ in range(2)
        )
        initialise(self)

    def forward(self, queries: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Queries [B, n, D] and patches [B, N, D] -> the same, decoded."""
        for to_queries, to_patches in zip(self.query_layers, self.patch_layers, strict=True):
            queries, patches = to_queries(queries, patches), to_patches(patches, queries)
        return queries, patches

    def start_at(self, deviation: float) -> None:
        """Set the last norms so that the first inner products of queries and patches have about this deviation.

        As they are drawn, it is sqrt(D): both sides have D numbers of unit deviation.
        """
        with torch.no_grad():
            for layers in (self.query_layers, self.patch_layers):
                last = layers[-1]
                assert isinstance(last, CrossAttentionLayer)
                weight = last.norm2.weight
                weight.fill_(math.sqrt(deviation / math.sqrt(weight.numel())))


def initialise(module: nn.Module) -> None:
    """Linear layers truncated normal, their biases 0; the MLPs of a patch stream add nothing at first."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=STD)
            nn.init.zeros_(part.bias)
    for part in module.modules():
        if isinstance(part, TwoStreamDecoder):
            for layer in part.patch_layers:
                assert isinstance(layer, CrossAttentionLayer)
                nn.init.zeros_(layer.linear2.weight)
