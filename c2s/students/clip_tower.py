"""CLIP's own image tower, of timm's parts, with the weights that a cache holds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn

from c2s_cache.errors import CacheError
from c2s_cache.reader import Cache
from c2s_cache.tower import TowerInfo, decode_tower

WEIGHTS = "tower/weights"
RULES = (
    (r"class_embedding", "vit.cls_token"),
    (r"positional_embedding", "vit.pos_embed"),
    (r"proj", "proj"),
    (r"conv1\.weight", "vit.patch_embed.proj.weight"),
    (r"ln_pre\.(.+)", r"vit.norm_pre.\1"),
    (r"ln_post\.(.+)", r"vit.norm.\1"),
    (r"transformer\.resblocks\.(\d+)\.ln_([12])\.(.+)", r"vit.blocks.\1.norm\2.\3"),
    (r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(.+)", r"vit.blocks.\1.attn.qkv.\2"),
    (r"transformer\.resblocks\.(\d+)\.attn\.out_proj\.(.+)", r"vit.blocks.\1.attn.proj.\2"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.(.+)", r"vit.blocks.\1.mlp.fc1.\2"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.(.+)", r"vit.blocks.\1.mlp.fc2.\2"),
)
"""open_clip's names of tensors and ours."""


class CLIPTower(nn.Module):
    """The tower of a `TowerInfo`, frozen; random until weights are loaded.

    Attributes:
        vit: timm's blocks, norms and embeddings.
        proj: [W, D], from the tower's width to the joint space with text.
    """

    vit: Any

    def __init__(self, info: TowerInfo) -> None:
        from timm.models.vision_transformer import VisionTransformer  # takes its time

        super().__init__()
        self.patch, self.grid = info.patch, info.grid
        self.vit = VisionTransformer(
            img_size=info.grid * info.patch,
            patch_size=info.patch,
            embed_dim=info.width,
            depth=info.layers,
            num_heads=info.heads,
            mlp_ratio=info.mlp / info.width,
            num_classes=0,
            global_pool="",
            pre_norm=True,
            act_layer=info.activation,
            norm_layer=partial(nn.LayerNorm, eps=info.eps),
        )
        self.proj = nn.Parameter(info.width**-0.5 * torch.randn(info.width, info.dim))
        self.requires_grad_(False)

    def embedded(self, images: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Class token [1, 1, W] and patches [B, h w, W] with their positions, not yet normed, and (h, w).

        Positions of another grid than the tower's are resampled bilinearly, as the ZegCLIP family does.
        """
        patches = self.vit.patch_embed.proj(images)
        size = (patches.shape[2], patches.shape[3])
        square = rearrange(self.vit.pos_embed[:, 1:], "one (r c) d -> one d r c", r=self.grid)
        # At the tower's own grid this changes no bit; a question would fix the sides of an exported program.
        resized = F.interpolate(square, size, mode="bilinear", align_corners=False)
        positions = resized.flatten(2).mT
        return self.class_token, patches.flatten(2).mT + positions, size

    @property
    def class_token(self) -> Tensor:
        """With its position: [1, 1, W]."""
        token: Tensor = self.vit.cls_token + self.vit.pos_embed[:, :1]
        return token

    def projected(self, tokens: Tensor) -> Tensor:
        """Tokens [B, n, W] of the last block, in the joint space: [B, n, D]."""
        found: Tensor = self.vit.norm(tokens) @ self.proj
        return found

    def load(self, tensors: Mapping[str, NDArray[np.float32]]) -> None:
        """Take the weights of a tower of the same `TowerInfo`, by open_clip's names."""
        own, state = self.state_dict(), {}
        for name, values in tensors.items():
            ours = next(re.sub(p, r, name) for p, r in RULES if re.fullmatch(p, name))
            state[ours] = torch.from_numpy(np.array(values)).view_as(own[ours])
        self.load_state_dict(state)


def stored_tower(cache: Cache) -> tuple[TowerInfo, dict[str, NDArray[Any]]]:
    """The tower of a cache that has the stage `tower`: what it is, and its tensors by open_clip's names.

    Raises:
        CacheError: it is damaged, or not that of the cache's teacher.
    """
    try:
        info, tensors = decode_tower(cache.once(WEIGHTS))
    except CacheError as error:
        raise CacheError(f"{cache}: {error.what}", f"See: c2s cache verify {cache}") from error
    told = cache.manifest.teacher
    if info.digest != told.tower_digest:
        raise CacheError(
            f"{cache} holds the image tower {info.digest[:12]}, but its teacher {told.name} has "
            f"{told.tower_digest[:12]}.",
            "Build the cache anew with another --out.",
        )
    return info, tensors
