"""Mask2Former over an encoder of timm: `mask2former:resnet50`."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from c2s.students.adapters.timm import encoder_of
from c2s.students.mask2former import STRIDES, Mask2Former
from c2s_cache.errors import ConfigError


class Pyramid(nn.Module):
    """The four maps of an encoder that Mask2Former takes.

    Args:
        encoder: made by timm with `features_only`.
        taken: which of its maps.
    """

    def __init__(self, encoder: Any, taken: list[int]) -> None:
        super().__init__()
        self.encoder, self.taken = encoder, taken
        self.channels_last = str(getattr(encoder, "output_fmt", "NCHW")).endswith("NHWC")

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, H, W] to maps [B, c, h, w], finest first."""
        maps = self.encoder(images)
        maps = [maps[i] for i in self.taken]
        return [m.permute(0, 3, 1, 2) for m in maps] if self.channels_last else maps


def build(name: str, dim: int, weights: str | None, config: Any = None) -> Mask2Former:
    """Mask2Former over a timm encoder; images are normalised as ImageNet's for all of them, as the paper does.

    Args:
        name: of the encoder, such as "resnet50" or "resnet50_clip".
        dim: D.
        weights: as for `c2s.students.adapters.timm.build`.
        config: unused.

    Raises:
        ConfigError: as there, or it lacks a map of one of the strides 4, 8, 16 and 32.
    """
    what = f"mask2former:{name}"
    encoder = encoder_of(name, weights, what)
    strides, channels = encoder.feature_info.reduction(), encoder.feature_info.channels()
    if not set(STRIDES) <= set(strides):
        raise ConfigError(
            f"{what} cannot be made: {name} gives maps of the strides {', '.join(map(str, strides))}; "
            f"Mask2Former takes {', '.join(map(str, STRIDES))}.",
            "Choose an encoder with a pyramid, such as resnet50, convnext_tiny or swin_tiny_patch4_window7_224.",
        )
    taken = [strides.index(stride) for stride in STRIDES]
    return Mask2Former(Pyramid(encoder, taken), [channels[i] for i in taken], dim)
