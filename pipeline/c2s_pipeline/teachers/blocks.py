"""Invariant: a transformer block is known by what it has, whichever library's class it is; one whose attention is of a
kind of its own is not taken apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as functional
from einops import rearrange
from torch import Tensor, nn

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Parts:
    """A block x + first(attention(before(x))), followed by y + second(ffn(y)).

    Attributes:
        before: [B, L, W] -> the same, normed.
        qkv: [B, L, W] -> queries, keys and values, each [B, n, L, c].
        out: heads side by side [B, L, n c] -> [B, L, W].
        first, second: scales of the two branches.
        ffn: norm and MLP.
    """

    before: Map
    qkv: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
    out: Map
    first: Map
    second: Map
    ffn: Map

    def rest(self, x: Tensor, attended: Tensor) -> Tensor:
        """What the block makes of its input and of what its attention gave: both residual branches."""
        y = x + self.first(attended)
        return y + self.second(self.ffn(y))


def taken_apart(block: Any) -> Parts | None:
    """The parts of a block of open_clip, timm or transformers; None: it is of another kind."""
    for parts in (_open_clip, _timm, _transformers):
        if (found := parts(block)) is not None:
            return found
    return None


def _open_clip(block: Any) -> Parts | None:
    attn: Any = getattr(block, "attn", None)
    if getattr(attn, "in_proj_weight", None) is None or not hasattr(block, "ls_1"):
        return None
    inner = ("ln_q", "ln_k", "ln_inner")
    if not (_plain(attn, *inner, "logit_scale", "head_scale") and _plain(block, "ln_attn")):
        return None

    def qkv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = functional.linear(x, attn.in_proj_weight, attn.in_proj_bias)
        return _three(y, attn.num_heads)

    ffn = nn.Sequential(block.ln_2, block.mlp)
    return Parts(block.ln_1, qkv, attn.out_proj, block.ls_1, block.ls_2, ffn)


def _timm(block: Any) -> Parts | None:
    attn: Any = getattr(block, "attn", None)
    if not all(hasattr(attn, name) for name in ("q_norm", "k_norm", "proj", "num_heads")):
        return None
    if not hasattr(block, "norm2") or not _plain(attn, "gate"):
        return None
    if hasattr(block, "ls1"):
        scales: tuple[Map, Map] = (block.ls1, block.ls2)
    elif hasattr(block, "gamma_1"):
        scales = (_times(block.gamma_1), _times(block.gamma_2))
    else:
        return None  # norms may stand behind the branches

    def qkv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if getattr(attn, "qkv", None) is not None:
            y = attn.qkv(x)
            if (bias := getattr(attn, "q_bias", None)) is not None:
                shift = (bias, bias.new_zeros(bias.shape), attn.v_bias)
                y = y + rearrange(list(shift), "three c -> (three c)")
            q, k, v = _three(y, attn.num_heads)
        else:
            q, k, v = _apart(attn, x)
        return attn.q_norm(q), attn.k_norm(k), v

    out = nn.Sequential(getattr(attn, "norm", nn.Identity()), attn.proj)
    return Parts(block.norm1, qkv, out, *scales, nn.Sequential(block.norm2, block.mlp))


def _transformers(block: Any) -> Parts | None:
    attn: Any = getattr(block, "self_attn", None)
    names = ("q_proj", "k_proj", "v_proj", "out_proj", "num_heads")
    if not all(hasattr(attn, name) for name in names) or not hasattr(block, "layer_norm2"):
        return None
    same, ffn = nn.Identity(), nn.Sequential(block.layer_norm2, block.mlp)
    return Parts(block.layer_norm1, lambda x: _apart(attn, x), attn.out_proj, same, same, ffn)


def _plain(module: Any, *names: str) -> bool:
    """Whether none of these parts does anything."""
    return all(isinstance(getattr(module, name, None), nn.Identity | None) for name in names)


def _times(scale: Tensor | None) -> Map:
    return nn.Identity() if scale is None else lambda x: scale * x


def _three(y: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = rearrange(y, "b l (three n c) -> three b n l c", three=3, n=heads)
    return q, k, v


def _apart(attn: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (
        rearrange(project(x), "b l (n c) -> b n l c", n=attn.num_heads)
        for project in (attn.q_proj, attn.k_proj, attn.v_proj)
    )
    return q, k, v
