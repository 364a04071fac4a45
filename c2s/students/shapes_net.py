"""The demo's student: a small convolutional encoder-decoder for 64-pixel scenes, quick on a CPU.

Its encoder starts from weights pretrained on the seen classes only (pretrain_shapes_net.py),
as the paper's students start from an image classifier; those weights are shipped with the package.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from c2s.shapes.defaults import ENCODER
from c2s.students.base import FeatureStudent, to_multiple
from c2s.students.weights import load_encoder, own_layout

WIDTHS = (24, 48, 96)
HEAD_WIDTHS = (32, 64)
STRIDE = 8
"""Of the last stage."""
LAYOUTS = (own_layout("stage1", "stage2", "stage3"),)


class ConvNorm(nn.Sequential):
    """Convolution, batch norm, ReLU: [B, in, H, W] -> [B, out, H / stride, W / stride]."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class Residual(nn.Module):
    """`convolutions` 3 x 3 convolutions beside an identity; shape unchanged."""

    def __init__(self, width: int, convolutions: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*(ConvNorm(width, width) for _ in range(convolutions)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


class ShapesEncoder(nn.Module):
    """Feature maps at 1/2, 1/4 and 1/8 with WIDTHS channels."""

    def __init__(self) -> None:
        super().__init__()
        half, quarter, eighth = WIDTHS
        self.stage1 = nn.Sequential(ConvNorm(3, half, stride=2), Residual(half, 1))
        self.stage2 = nn.Sequential(ConvNorm(half, quarter, stride=2), Residual(quarter, 2))
        self.stage3 = nn.Sequential(ConvNorm(quarter, eighth, stride=2), Residual(eighth, 2))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """images [B, 3, H, W] -> [B, 24, H/2, W/2], [B, 48, H/4, W/4], [B, 96, H/8, W/8]."""
        half = self.stage1(images)
        quarter = self.stage2(half)
        return half, quarter, self.stage3(quarter)


class ShapesNet(FeatureStudent):
    """Features at 1/2 of the input (0.32 M parameters and 59 M MACs at 64 x 64, D = 128).

    Args:
        dim: D, width of the features.
        weights: encoder weights, a safetensors file; None: the shipped ones; "random": none.

    Raises:
        ConfigError: the weights do not exist or do not fit the encoder.
    """

    stride = 2
    classifier = "project"

    def __init__(self, dim: int = 128, weights: str | None = None) -> None:
        super().__init__()
        self.dim = dim
        half, quarter, eighth = WIDTHS
        narrow, wide = HEAD_WIDTHS
        self.backbone = ShapesEncoder()
        self.scene = nn.Linear(eighth, quarter)
        self.lateral3 = ConvNorm(eighth, quarter, kernel=1)
        self.fuse2 = ConvNorm(quarter, quarter)
        self.lateral2 = ConvNorm(quarter, narrow, kernel=1)
        self.lateral1 = ConvNorm(half, narrow, kernel=1)
        self.fuse1 = ConvNorm(narrow, narrow)
        self.expand = ConvNorm(narrow, wide, kernel=1)
        self.project = nn.Conv2d(wide, dim, 1)
        if weights != "random":
            load_encoder(self.backbone, weights or ENCODER, LAYOUTS)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Features float [B, D, H/2, W/2] of normalised images [B, 3, H, W]."""
        images = to_multiple(images, STRIDE)
        half, quarter, eighth = self.backbone(images.contiguous(memory_format=torch.channels_last))
        x = self.lateral3(eighth) + self.scene(eighth.mean((2, 3)))[:, :, None, None]
        x = self.fuse2(quarter + _enlarge(x))
        x = self.fuse1(self.lateral1(half) + _enlarge(self.lateral2(x)))
        features: Tensor = self.project(self.expand(x))
        return features


def _enlarge(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
