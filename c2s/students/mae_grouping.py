"""ZeroSeg's student (ICCV 2023): an MAE encoder and a head that groups its patches into segments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from transformers import GroupViTVisionConfig, ViTMAEConfig, ViTMAEModel

from c2s.students.base import CLIP_SCALE, to_multiple
from c2s.students.grouping import SIZES, Grouped, GroupingSettings, GroupingStudent
from c2s.students.grouping_head import GroupingHead, xavier
from c2s.students.weights import Layout, load_encoder, own_layout
from c2s_cache.errors import ConfigError

EPS = 1e-6
"""Of MAE's layer norms; transformers has another default."""


class MAEGroupingStudent(GroupingStudent):
    """Segments of the patches of an MAE encoder.

    Args:
        name: one of `SIZES`.
        dim: D, width of the segments.
        weights: of the encoder, in a layout of `LAYOUTS` (facebook/vit-mae-base, mae_pretrain_vit_base.pth); see
            `c2s.students.weights.read_checkpoint`. None: random.
        architecture: `GroupingSettings`, and `scale`, that of the teacher's cosines; what is missing is the size's own.

    Raises:
        ConfigError: the weights cannot be read or do not fit the encoder; or a width of the head that its attention
            heads, as wide as the encoder's, do not divide.
    """

    def __init__(
        self,
        name: str,
        dim: int,
        weights: str | None = None,
        architecture: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        size = SIZES[name]
        given = dict(architecture or {})
        self.scale = float(given.pop("scale", None) or CLIP_SCALE)
        self.how = GroupingSettings.model_validate(size.how.model_dump() | given)
        self.architecture = {**self.how.model_dump(), "scale": self.scale}
        self.dim, self.width, self.patch = dim, size.width, size.patch
        self.grid, self.segments = size.image // size.patch, size.groups[-1]
        self.backbone = ViTMAEModel(
            ViTMAEConfig(
                hidden_size=size.width,
                num_hidden_layers=size.layers,
                num_attention_heads=size.heads,
                intermediate_size=4 * size.width,
                image_size=size.image,
                patch_size=size.patch,
                layer_norm_eps=EPS,
                mask_ratio=0.0,
            )
        )
        embeddings: Any = self.backbone.embeddings
        positions = embeddings.position_embeddings.detach()
        del embeddings.position_embeddings  # they follow from the grid, and are never learnt
        embeddings.register_buffer("position_embeddings", positions, persistent=False)
        wide, attention = self.how.width or size.width, size.width // size.heads
        if wide % attention:
            raise ConfigError(
                f"method.grouping.width={wide} is no multiple of {attention}, the width of an attention head "
                f"of {name}.",
                f"Give a multiple of {attention}, or leave it out: {size.width}, as wide as the encoder",
            )
        self.to_head = nn.Identity() if wide == size.width else nn.Linear(size.width, wide)
        self.head = GroupingHead(
            GroupViTVisionConfig(
                hidden_size=wide,
                intermediate_size=4 * wide,
                num_attention_heads=wide // attention,
                num_hidden_layers=sum(size.depths),
                depths=size.depths,
                num_group_tokens=size.tokens,
                num_output_groups=size.groups,
            ),
            self.how,
        )
        self.norm, self.project = nn.LayerNorm(wide), nn.Linear(wide, dim)
        xavier(self.backbone)
        xavier(self.to_head)
        xavier(self.project)
        if weights is not None:
            load_encoder(self.backbone, weights, LAYOUTS)

    def forward(
        self, images: Tensor, mask_ratio: float = 0.0, noise: Tensor | None = None
    ) -> Grouped:
        """See `GroupingStudent.forward`.

        Raises:
            ConfigError: the mask ratio hides every patch.
        """
        images = to_multiple(images, self.patch)
        backbone: Any = self.backbone
        embeddings = backbone.embeddings
        x: Tensor = embeddings.patch_embeddings(images)
        height, width = (side // self.patch for side in images.shape[-2:])
        positions = square_positions(embeddings.position_embeddings, height, width)
        x = x + positions[:, 1:]
        batch, count = x.shape[:2]
        if mask_ratio == 0 and noise is None:
            order = torch.arange(count, device=x.device).expand(batch, -1)
        else:
            noise = torch.rand(batch, count, device=x.device) if noise is None else noise
            order = noise.argsort(1)
        seen = int(count * (1 - mask_ratio))
        if not seen:
            raise ConfigError(
                f"A mask ratio of {mask_ratio:g} hides every one of the {count} patches of {self.patch} pixels of an "
                f"image of {images.shape[-2]} x {images.shape[-1]}.",
                "Lower --set method.mask_ratio=SHARE, or take larger images: --set image_size=PIXELS",
            )
        kept = order[:, :seen]
        x = x.gather(1, kept[..., None].expand(-1, -1, x.shape[-1]))
        first = (embeddings.cls_token + positions[:, :1]).expand(batch, -1, -1)
        x = torch.cat([first, x], 1)
        for layer in backbone.layers:
            x = layer(x, None)
        patches = backbone.layernorm(x)
        tokens, maps = self.head(self.to_head(patches[:, 1:]))
        segments = self.project(self.norm(tokens))
        return Grouped(segments, tokens, maps, patches, kept, order.argsort(1))


def square_positions(positions: Tensor, height: int, width: int) -> Tensor:
    """Positions [1, 1 + g * g, W] of a class token and a square grid, resampled bicubically: [1, 1 + h * w, W]."""
    side = round((positions.shape[1] - 1) ** 0.5)
    if (height, width) == (side, side):
        return positions
    grid = rearrange(positions[:, 1:], "b (h w) c -> b c h w", h=side)
    resampled = F.interpolate(grid, (height, width), mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1], resampled.flatten(2).mT], 1)


LAYER = r"(\d+)\."
LAYOUTS = (
    own_layout("embeddings", "layers", "layernorm"),
    # facebook/vit-mae-*, as the hub stores them.
    Layout(
        "Hugging Face ViT-MAE",
        (
            (r"(embeddings\.(?:cls_token|patch_embeddings\..+))", r"\1"),
            *(
                (
                    rf"encoder\.layer\.{LAYER}attention\.attention\.{old}\.(.+)",
                    rf"layers.\1.attention.{new}.\2",
                )
                for old, new in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"))
            ),
            (
                rf"encoder\.layer\.{LAYER}attention\.output\.dense\.(.+)",
                r"layers.\1.attention.o_proj.\2",
            ),
            (rf"encoder\.layer\.{LAYER}intermediate\.dense\.(.+)", r"layers.\1.mlp.fc1.\2"),
            (rf"encoder\.layer\.{LAYER}output\.dense\.(.+)", r"layers.\1.mlp.fc2.\2"),
            (rf"encoder\.layer\.{LAYER}(layernorm_.+)", r"layers.\1.\2"),
            (r"(layernorm\..+)", r"\1"),
        ),
    ),
    # facebookresearch/mae: mae_pretrain_vit_*.pth.
    Layout(
        "MAE",
        (
            ("cls_token", "embeddings.cls_token"),
            (r"patch_embed\.proj\.(.+)", r"embeddings.patch_embeddings.projection.\1"),
            (
                rf"blocks\.{LAYER}attn\.qkv\.(.+)",
                tuple(rf"layers.\1.attention.{part}_proj.\2" for part in "qkv"),
            ),
            (rf"blocks\.{LAYER}attn\.proj\.(.+)", r"layers.\1.attention.o_proj.\2"),
            (rf"blocks\.{LAYER}mlp\.(.+)", r"layers.\1.mlp.\2"),
            (rf"blocks\.{LAYER}norm1\.(.+)", r"layers.\1.layernorm_before.\2"),
            (rf"blocks\.{LAYER}norm2\.(.+)", r"layers.\1.layernorm_after.\2"),
            (r"norm\.(.+)", r"layernorm.\1"),
        ),
    ),
)
