"""Dense features without training: what the last block of a frozen CLIP ViT may do differently.

Invariant: the CLS embedding and all blocks but the last are untouched; "plain" is the paper's C_d.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as functional
from einops import rearrange
from torch import Tensor, nn

from c2s_cache import ConfigError

DenseFeatures = Literal[
    "plain",
    "unprojected",
    "penultimate",
    "mid",
    "value",
    "maskclip",
    "qq",
    "kk",
    "vv",
    "qq-kk",
    "neighbour",
]
"""Names of the variants:

plain        the patch tokens after the final norm and projection (Sec. III-B)
unprojected  the same before the projection
penultimate  the output of the last block but one, neither normed nor projected
mid          the same of the block at two thirds of the depth (8 of 12), as SC-CLIP clusters
value        values alone in place of attention, residual and FFN dropped
maskclip     the same with both kept, as the code of MaskCLIP has it
qq, kk, vv   self-self attention; qq is ClearCLIP, vv as in CLIP Surgery
qq-kk        softmax(q q^T) + softmax(k k^T), residual and FFN kept (SCLIP)
neighbour    k k^T plus a Gaussian of the distance between cells (NACLIP)

All but the first four, maskclip and qq-kk drop the last block's residual connection and FFN.
"""

NEIGHBOUR_STD = 5.0
"""Standard deviation of the Gaussian of `neighbour`, in cells."""


@dataclass(frozen=True)
class _LastBlock:
    """Pairs whose scaled products are soft-maxed and summed; none: every token attends to itself."""

    pairs: tuple[str, ...]
    gaussian: bool = False
    residual: bool = False


_LAST_BLOCKS = {
    "value": _LastBlock(()),
    "maskclip": _LastBlock((), residual=True),
    "qq": _LastBlock(("q",)),
    "kk": _LastBlock(("k",)),
    "vv": _LastBlock(("v",)),
    "qq-kk": _LastBlock(("q", "k"), residual=True),
    "neighbour": _LastBlock(("k",), gaussian=True),
}


def layer_of(features: DenseFeatures, layers: int) -> int | None:
    """Block, counted from 1, whose output is taken as it is; None where the last block's is used."""
    return {"penultimate": layers - 1, "mid": round(2 * layers / 3)}.get(features)


def check_variant(visual: Any, features: DenseFeatures, name: str) -> None:
    """Refuse a variant that a tower cannot give.

    Raises:
        ConfigError: too few blocks, or a last block whose attention is not plain.
    """
    blocks = visual.transformer.resblocks
    if features in _LAST_BLOCKS and not isinstance(
        getattr(blocks[-1], "attn", None), nn.MultiheadAttention
    ):
        raise ConfigError(
            f"teacher {name} has a last block of its own kind, which the dense features "
            f"{features!r} cannot be taken from.",
            "Choose --dense-features plain.",
        )
    if len(blocks) < 2 and features != "plain":
        raise ConfigError(f"teacher {name} has a single block; choose --dense-features plain.")


def dense_dim(visual: Any, features: DenseFeatures) -> int:
    """Channels of the dense features: D, or the width of the tower where nothing is projected."""
    width, dim = visual.proj.shape
    return int(width if features in ("unprojected", "penultimate", "mid") else dim)


def cls_and_dense(
    visual: Any, pixels: Tensor, features: DenseFeatures, grid: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """CLS embedding and dense features of prepared images.

    Args:
        visual: open_clip's VisionTransformer.
        pixels: float [B, 3, T, T], normalised.
        features: which dense features.
        grid: (h, w) of the patch tokens.

    Returns:
        CLS [B, D] and patch tokens [B, h w, C], C as `dense_dim` says; neither normalised.
    """
    blocks = visual.transformer.resblocks
    layer = layer_of(features, len(blocks))
    first = len(blocks) - 2 if layer is None else layer - 1
    out = visual.forward_intermediates(
        pixels,
        indices=[len(blocks) - 1] if features in ("plain", "unprojected") else [first],
        normalize_intermediates=features in ("plain", "unprojected"),
        output_fmt="NLC",
        output_extra_tokens=True,
    )
    cls, patches = out["image_features"], out["image_intermediates"][0]
    if features == "plain":
        return cls, patches @ visual.proj
    if features not in _LAST_BLOCKS:
        return cls, patches
    tokens = torch.cat([out["image_intermediates_prefix"][0], patches], 1)
    last = _changed_block(blocks[-1], tokens, _LAST_BLOCKS[features], grid)
    return cls, visual.ln_post(last[:, -patches.shape[1] :]) @ visual.proj


def _changed_block(block: Any, x: Tensor, how: _LastBlock, grid: tuple[int, int]) -> Tensor:
    """The block with its attention exchanged: [B, 1 + h w, width] -> the same."""
    attn = block.attn
    y = functional.linear(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias)
    q, k, v = rearrange(y, "b l (three n c) -> three b n l c", three=3, n=attn.num_heads)
    chosen = {"q": q, "k": k, "v": v}
    mixed = torch.zeros_like(v) if how.pairs else v
    for name in how.pairs:
        side = chosen[name]
        scores = side @ side.transpose(-1, -2) / side.shape[-1] ** 0.5
        if how.gaussian:
            scores = scores + neighbourhood(grid, scores.device).to(scores.dtype)
        mixed = mixed + scores.softmax(-1) @ v
    out: Tensor = attn.out_proj(rearrange(mixed, "b n l c -> b l (n c)"))
    if how.residual:
        out = x + block.ls_1(out)
        out = out + block.ls_2(block.mlp(block.ln_2(out)))
    return out


def neighbourhood(grid: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
    """exp(-d^2 / (2 std^2)) with d the distance of two cells; 0 to and from the CLS token.

    Returns:
        float32 [1 + h w, 1 + h w].
    """
    cells = torch.cartesian_prod(
        torch.arange(grid[0], device=device), torch.arange(grid[1], device=device)
    ).float()
    squared = (cells[:, None] - cells[None]).square().sum(-1)
    return functional.pad(torch.exp(-squared / (2 * NEIGHBOUR_STD**2)), (1, 0, 1, 0))
