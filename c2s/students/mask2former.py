"""Mask2Former's two decoders, of transformers, over any backbone (Cheng et al., CVPR 2022).

Its modules are no public interface of transformers: a test holds them against the model that it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoder,
    Mask2FormerPreTrainedModel,
    Mask2FormerTransformerModule,
)

from c2s.shapes.defaults import ENCODER
from c2s.students.base import to_multiple
from c2s.students.query import QueryStudent
from c2s.students.shapes_net import LAYOUTS, WIDTHS, ConvNorm, Residual, ShapesEncoder
from c2s.students.weights import load_encoder

STRIDES = (4, 8, 16, 32)
"""Of the backbone's maps that the pixel decoder takes."""


class FramePositions(nn.Module):
    """Where a cell lies in its frame, for maps of frames that lie below each other.

    Args:
        within: transformers' embedding of the positions of one image.

    Attributes:
        frames: T of the maps that come.
    """

    def __init__(self, within: nn.Module) -> None:
        super().__init__()
        self.within, self.frames = within, 1

    def forward(self, shape: Sequence[int], *rest: Any) -> Tensor:
        """Positions [B, C, T h, w] of maps of this shape."""
        batch, channels, height, width = shape
        one: Tensor = self.within(
            torch.Size((batch, channels, height // self.frames, width)), *rest
        )
        return one.repeat(1, 1, self.frames, 1)


class _Decoders(Mask2FormerPreTrainedModel):  # type: ignore[misc]
    """The decoders as transformers initialises them; its rule would change the norms of a backbone beside them.

    Args:
        config: their sizes.
        channels: of the backbone's maps, finest first; None: no pixel decoder.
    """

    def __init__(self, config: Any, channels: Sequence[int] | None) -> None:
        super().__init__(config)
        if channels is not None:
            self.pixel = Mask2FormerPixelDecoder(config, list(channels))
        self.transformer = Mask2FormerTransformerModule(config.feature_size, config)
        self.transformer.position_embedder = FramePositions(self.transformer.position_embedder)
        self.post_init()


def _exact(images: Tensor) -> AbstractContextManager[Any]:
    """No mixed precision; on the device of tensors without values there is none."""
    kind = images.device.type
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)


def decode_queries(
    transformer: nn.Module, levels: Sequence[Tensor], mask_features: Tensor, frames: int = 1
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Mask logits and states [B, Q, C] of every set, as in `QueryStudent.decode`.

    The T frames of a clip are one tall image, in which a cell has the position that it has in its frame. Nothing else
    tells them apart: levels are even fractions of a frame, so that no mask is brought to cells of two frames.

    Args:
        transformer: Mask2Former's, with `FramePositions`.
        levels: three maps [B T, C, h', w'], coarsest first.
        mask_features: [B T, C', h, w].
        frames: T.
    """
    if frames > 1:
        below = "(b t) c h w -> b c (t h) w"
        levels = [rearrange(level, below, t=frames) for level in levels]
        mask_features = rearrange(mask_features, below, t=frames)
    transformer.position_embedder.frames = frames  # type: ignore[union-attr]
    found = transformer(list(levels), mask_features)
    states = tuple(state.transpose(0, 1) for state in found.intermediate_hidden_states)
    return tuple(found.masks_queries_logits), states


class Mask2Former(QueryStudent):
    """Backbone, pixel decoder of six layers of deformable attention, nine layers of masked attention, 100 queries.

    Both decoders compute in float32 whatever the precision: half of it does not pass through transformers' modules.

    Args:
        backbone: gives maps of the strides 4, 8, 16 and 32, [B, c, h, w].
        channels: of these.
        dim: D.
    """

    def __init__(self, backbone: nn.Module, channels: Sequence[int], dim: int) -> None:
        config = Mask2FormerConfig()
        super().__init__(dim, config.hidden_dim, config.decoder_layers)
        decoders = _Decoders(config, channels)
        self.backbone = backbone
        self.pixel_decoder, self.transformer = decoders.pixel, decoders.transformer

    def decode(
        self, images: Tensor, frames: int = 1
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """See `QueryStudent.decode`; masks are of a quarter of the size."""
        maps = self.backbone(to_multiple(images, STRIDES[-1]))
        with _exact(images):
            pixels = self.pixel_decoder([m.float() for m in maps])
            return decode_queries(
                self.transformer, pixels.multi_scale_features, pixels.mask_features, frames
            )


class ShapesMask2Former(QueryStudent):
    """A small one for Shapes scenes: a pyramid without attention, three layers, 16 queries, masks of half the size.

    Args:
        dim: D.
        weights: of the encoder, as for `ShapesNet`.

    Raises:
        ConfigError: the weights do not exist or do not fit the encoder.
    """

    WIDTH = 64

    def __init__(self, dim: int = 128, weights: str | None = None) -> None:
        config = Mask2FormerConfig(
            feature_size=self.WIDTH,
            mask_feature_size=self.WIDTH,
            hidden_dim=self.WIDTH,
            decoder_layers=4,  # transformers counts the set before the first layer
            num_attention_heads=4,
            dim_feedforward=256,
            num_queries=16,
        )
        super().__init__(dim, self.WIDTH, config.decoder_layers)
        *_, eighth = widths = WIDTHS
        self.backbone = ShapesEncoder()
        self.coarsest = nn.Sequential(ConvNorm(eighth, eighth, stride=2), Residual(eighth, 2))
        self.lateral = nn.ModuleList(ConvNorm(w, self.WIDTH, kernel=1) for w in (*widths, eighth))
        self.smooth = nn.ModuleList(ConvNorm(self.WIDTH, self.WIDTH) for _ in widths)
        self.mask_projection = nn.Conv2d(self.WIDTH, self.WIDTH, 1)
        self.transformer = _Decoders(config, None).transformer
        if weights != "random":
            load_encoder(self.backbone, weights or ENCODER, LAYOUTS)

    def decode(
        self, images: Tensor, frames: int = 1
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """See `QueryStudent.decode`."""
        maps = list(self.backbone(to_multiple(images, 16)))
        maps.append(self.coarsest(maps[-1]))
        with _exact(images):
            x = self.lateral[-1](maps[-1].float())
            levels = [x]
            for i in (2, 1, 0):
                x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
                x = self.smooth[i](self.lateral[i](maps[i].float()) + x)
                levels.append(x)
            return decode_queries(self.transformer, levels[:3], self.mask_projection(x), frames)
