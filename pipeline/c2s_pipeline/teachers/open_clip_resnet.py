"""open_clip's ResNet CLIPs, whose last map is pooled by attention: the mean of all positions asks them."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as functional
from einops import rearrange
from torch import Tensor, nn

from c2s_pipeline.teachers.tower import DenseFeatures, Tower, one_side


class OpenClipResNet(Tower):
    """See `Tower`; its only projection is that of the pooling, through which each position goes alone (MaskCLIP)."""

    family = "ResNet"
    patch_size = 32

    def __init__(self, visual: Any, name: str) -> None:
        super().__init__(visual, name)
        self.image_size = one_side(visual.image_size, name, "images")

    @property
    def dim(self) -> int:
        """See `Tower`."""
        return int(self.visual.attnpool.c_proj.out_features)

    @property
    def variants(self) -> tuple[DenseFeatures, ...]:
        """See `Tower`."""
        return ("plain",)

    @property
    def widest(self) -> int:
        """See `Tower.widest`: the last map of the stem, and a first block's, which is as large."""
        return int(self.visual.conv3.out_channels * (self.image_size // 2) ** 2)

    def at(self, size: int) -> OpenClipResNet:
        """See `Tower.at`; positions are interpolated as those of a ViT, the mean's stays."""
        tower = copy.deepcopy(self.visual)
        tower.image_size, side = size, size // self.patch_size
        mean, cells = self.visual.attnpool.positional_embedding.detach().split(
            [1, (self.image_size // self.patch_size) ** 2]
        )
        grid = rearrange(cells, "(h w) c -> 1 c h w", h=self.image_size // self.patch_size)
        grid = functional.interpolate(grid, (side, side), mode="bicubic", antialias=True)
        positions = torch.cat([mean, rearrange(grid, "1 c h w -> (h w) c")])
        tower.attnpool.positional_embedding = nn.Parameter(positions, requires_grad=False)
        return OpenClipResNet(tower, self.name)

    def embed(self, pixels: Tensor) -> Tensor:
        """See `Tower.embed`."""
        found: Tensor = self.visual(pixels)
        return found

    def cls_and_dense(self, pixels: Tensor, features: DenseFeatures) -> tuple[Tensor, Tensor]:
        """See `Tower.cls_and_dense`; the embedding comes from the same pass."""
        maps, pool = self._maps(pixels), self.visual.attnpool
        cells = rearrange(maps, "b c h w -> b (h w) c") + pool.positional_embedding[1:]
        return pool(maps), pool.c_proj(pool.v_proj(cells))

    def _maps(self, pixels: Tensor) -> Tensor:
        """The last feature maps [B, W, h, w]."""
        visual = self.visual
        maps = visual.stem(pixels)
        for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            maps = layer(maps)
        found: Tensor = maps
        return found
