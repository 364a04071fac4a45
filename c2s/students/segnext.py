"""SegNeXt-T to L: MSCAN encoder, light Hamburger head, classifier widened to D outputs.

Guo et al., "SegNeXt: Rethinking Convolutional Attention Design for Semantic Segmentation" (NeurIPS
2022); the head's matrix decomposition is that of Geng et al., "Is Attention Better Than Matrix
Decomposition?" (ICLR 2021).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import DropPath, LayerNorm2d
from torch import Tensor, nn

from c2s.students.base import FeatureStudent, initialise_convolutions, to_multiple
from c2s.students.weights import Layout, load_encoder, own_layout

STRIDE = 32
"""Of the last stage. The reference, too, resizes test images to multiples of it."""
MLP_RATIOS = (8, 8, 4, 4)
BASES_SEED = 0


class Size(NamedTuple):
    """Widths and depths of the four stages, channels of the head, rank of its matrix decomposition,
    rate of stochastic depth: the configurations of the reference for ADE20K and COCO-Stuff."""

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    channels: int
    rank: int
    drop_path: float


SIZES = {
    "t": Size((32, 64, 160, 256), (3, 3, 5, 2), 256, 16, 0.1),
    "s": Size((64, 128, 320, 512), (2, 2, 4, 2), 256, 16, 0.1),
    "b": Size((64, 128, 320, 512), (3, 3, 12, 3), 512, 64, 0.1),
    "l": Size((64, 128, 320, 512), (3, 5, 27, 3), 1024, 64, 0.3),
}


def depthwise(width: int, kernel: tuple[int, int]) -> nn.Conv2d:
    """A convolution of every channel by itself; shape unchanged."""
    padding = (kernel[0] // 2, kernel[1] // 2)
    return nn.Conv2d(width, width, kernel, padding=padding, groups=width)


class ConvolutionalAttention(nn.Module):
    """MSCA: weights from strips of 7, 11 and 21 pixels around a 5 x 5 neighbourhood; shape unchanged."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.local = depthwise(width, (5, 5))
        self.strips = nn.ModuleList(
            nn.Sequential(depthwise(width, (1, k)), depthwise(width, (k, 1))) for k in (7, 11, 21)
        )
        self.mix = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x, every element weighted: [B, C, H, W] -> [B, C, H, W]."""
        weights = local = self.local(x)
        for strip in self.strips:
            weights = weights + strip(local)
        weighted: Tensor = self.mix(weights) * x
        return weighted


class Block(nn.Module):
    """Convolutional attention, then an MLP with a 3 x 3 depthwise convolution, both residual."""

    def __init__(self, width: int, mlp_ratio: int, drop_path: float) -> None:
        super().__init__()
        hidden = width * mlp_ratio
        self.norm1 = nn.BatchNorm2d(width)
        self.attention = nn.Sequential(
            nn.Conv2d(width, width, 1),
            nn.GELU(),
            ConvolutionalAttention(width),
            nn.Conv2d(width, width, 1),
        )
        self.scale1 = nn.Parameter(torch.full((width,), 1e-2))
        self.norm2 = nn.BatchNorm2d(width)
        self.mlp = nn.Sequential(
            nn.Conv2d(width, hidden, 1),
            depthwise(hidden, (3, 3)),
            nn.GELU(),
            nn.Conv2d(hidden, width, 1),
        )
        self.scale2 = nn.Parameter(torch.full((width,), 1e-2))
        self.drop = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        normed = self.norm1(x)
        attended = self.attention(normed) + normed  # the reference's inner shortcut
        x = x + self.drop(self.scale1[:, None, None] * attended)
        out: Tensor = x + self.drop(self.scale2[:, None, None] * self.mlp(self.norm2(x)))
        return out


class Stage(nn.Module):
    """Half the resolution or, by two convolutions, a quarter; blocks; a norm over the channels."""

    def __init__(self, widths: tuple[int, ...], blocks: Iterable[Block]) -> None:
        super().__init__()
        self.embed = _embed(*widths)
        self.blocks = nn.Sequential(*blocks)
        self.norm = LayerNorm2d(widths[-1], eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """[B, widths[0], H, W] -> [B, widths[-1], H / s, W / s]."""
        out: Tensor = self.norm(self.blocks(self.embed(x)))
        return out


class MSCAN(nn.Module):
    """Encoder: four stages at 1/4, 1/8, 1/16 and 1/32."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        rates = iter(torch.linspace(0, size.drop_path, sum(size.depths), device="cpu").tolist())
        self.stages = nn.ModuleList()
        widths: tuple[int, ...] = (3, size.widths[0] // 2)
        for width, depth, ratio in zip(size.widths, size.depths, MLP_RATIOS, strict=True):
            widths = (*widths, width)
            blocks = (Block(width, ratio, next(rates)) for _ in range(depth))
            self.stages.append(Stage(widths, blocks))
            widths = (width,)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalised images [B, 3, H, W] -> maps [B, C_i, H / s, W / s] for s = 4, 8, 16, 32."""
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def _embed(*widths: int) -> nn.Sequential:
    """3 x 3 convolutions of stride 2 with batch norm, GELU between two of them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.GELU()]
    return nn.Sequential(*layers[:-1])


class Factorisation(nn.Module):
    """Non-negative matrix factorisation X ~ W H^T by multiplicative updates, in float32; shape unchanged.

    X [C, N] holds an image's N positions, W [C, R] bases, H [N, R] coefficients (Lee and Seung's
    updates, 6 in training and 7 in evaluation, and a last one of H; gradients flow through all).

    The bases start at random. In training they are drawn anew for every image, as in the reference. In
    evaluation, where the reference draws them too and so never gives the same logits twice, every
    image starts from one draw: that of a CPU generator with seed `BASES_SEED`, made when the module is
    built. What is predicted for an image depends on nothing but the image and the weights.
    """

    TRAIN_STEPS, EVAL_STEPS = 6, 7
    EPS = 1e-6

    bases: Tensor

    def __init__(self, channels: int, rank: int) -> None:
        super().__init__()
        generator = torch.Generator("cpu").manual_seed(BASES_SEED)
        bases = torch.rand(1, channels, rank, generator=generator, device="cpu")
        # Not part of checkpoints: the seed brings it back.
        bases = bases.to(torch.get_default_device())
        self.register_buffer("bases", F.normalize(bases, dim=1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The factorisation's product W H^T of maps x >= 0: float32 [B, C, H, W] -> [B, C, H, W]."""
        with _full_precision(x.device.type):
            v = x.flatten(2).float()  # [B, C, N]
            w = self._start(v)  # [B, C, R]
            h = (v.mT @ w).softmax(dim=-1)  # [B, N, R]
            for _ in range(self.TRAIN_STEPS if self.training else self.EVAL_STEPS):
                h = h * (v.mT @ w) / (h @ (w.mT @ w) + self.EPS)
                w = w * (v @ h) / (w @ (h.mT @ h) + self.EPS)
            h = h * (v.mT @ w) / (h @ (w.mT @ w) + self.EPS)
            return (w @ h.mT).view(x.shape)

    def _start(self, v: Tensor) -> Tensor:
        shape = (len(v), *self.bases.shape[1:])
        if self.training:
            return F.normalize(torch.rand(shape, device=v.device), dim=1)
        return self.bases.float().expand(shape)


def _full_precision(device: str) -> AbstractContextManager[object]:
    """No autocast where there is one; "meta", on which costs are counted, does not know any."""
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


class HamburgerHead(nn.Module):
    """Stages 2 to 4 joined at 1/8, global context by matrix decomposition between two convolutions."""

    def __init__(self, widths: tuple[int, ...], channels: int, rank: int, dim: int) -> None:
        super().__init__()
        self.squeeze = _conv_norm(sum(widths), channels)
        self.lower_bread = nn.Conv2d(channels, channels, 1)
        self.ham = Factorisation(channels, rank)
        self.upper_bread = _conv_norm(channels, channels, act=False)
        self.align = _conv_norm(channels, channels)
        self.dropout = nn.Dropout2d(0.1)
        self.classifier = nn.Conv2d(channels, dim, 1)
        initialise_convolutions(self, self.classifier)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """[B, C_i, H / s, W / s] for s = 8, 16, 32 -> [B, D, H / 8, W / 8]."""
        size = maps[0].shape[-2:]
        joined = [F.interpolate(m, size, mode="bilinear", align_corners=False) for m in maps]
        x = self.squeeze(torch.cat(joined, dim=1))
        x = F.relu(x + self.upper_bread(self.ham(F.relu(self.lower_bread(x)))))
        features: Tensor = self.classifier(self.dropout(self.align(x)))
        return features


def _conv_norm(inputs: int, outputs: int, act: bool = True) -> nn.Sequential:
    layers = [nn.Conv2d(inputs, outputs, 1, bias=False), nn.GroupNorm(32, outputs)]
    return nn.Sequential(*layers, *([nn.ReLU()] if act else []))


class SegNeXt(FeatureStudent):
    """SegNeXt with features at 1/8 of the input.

    Its stock schedule is the trainer's default (AdamW 6e-5, weight decay 0.01, head x 10, linear
    warm-up of 1500 iterations, poly of power 1).

    Args:
        size: "t", "s", "b" or "l".
        dim: D.
        weights: encoder weights in a layout of `LAYOUTS` (`mscan_b.pth`; see
            `c2s.students.weights.read_checkpoint` for what may hold them); None: random.

    Raises:
        ConfigError: the weights cannot be read or do not fit the encoder.
    """

    classifier = "head.classifier"

    def __init__(self, size: str, dim: int, weights: str | None = None) -> None:
        super().__init__()
        self.dim = dim
        sizes = SIZES[size]
        self.backbone = MSCAN(sizes)
        self.head = HamburgerHead(sizes.widths[1:], sizes.channels, sizes.rank, dim)
        if weights is None:
            initialise_convolutions(self.backbone)
        else:
            load_encoder(self.backbone, weights, LAYOUTS)

    def forward(self, images: Tensor) -> Tensor:
        """Features float [B, D, H / 8, W / 8] of normalised images [B, 3, H, W]."""
        features: Tensor = self.head(self.backbone(to_multiple(images, STRIDE))[1:])
        return features


def _layout(name: str, dwconv: str) -> Layout:
    """The names of MSCAN's reference, whose MLP has its depthwise convolution under `dwconv`."""
    rules: list[tuple[str, str | tuple[str, ...]]] = [
        (r"patch_embed1\.proj\.(\d\..+)", r"stages.0.embed.\1")
    ]
    for n in range(4):
        block = rf"block{n + 1}\.(\d+)\."
        ours = rf"stages.{n}.blocks.\1."
        gate = block + r"attn\.spatial_gating_unit\."
        rules += [
            (rf"patch_embed{n + 1}\.proj\.(weight|bias)", rf"stages.{n}.embed.0.\1"),
            (rf"patch_embed{n + 1}\.norm\.(.+)", rf"stages.{n}.embed.1.\1"),
            (rf"norm{n + 1}\.(.+)", rf"stages.{n}.norm.\1"),
            (block + r"norm([12]\..+)", ours + r"norm\2"),
            (block + r"layer_scale_([12])", ours + r"scale\2"),
            (block + r"attn\.proj_1\.(.+)", ours + r"attention.0.\2"),
            (block + r"attn\.proj_2\.(.+)", ours + r"attention.3.\2"),
            (gate + r"conv0\.(.+)", ours + r"attention.2.local.\2"),
            *(
                (gate + rf"conv(\d)_{i + 1}\.(.+)", ours + rf"attention.2.strips.\2.{i}.\3")
                for i in range(2)
            ),
            (gate + r"conv3\.(.+)", ours + r"attention.2.mix.\2"),
            (block + r"mlp\.fc1\.(.+)", ours + r"mlp.0.\2"),
            (block + rf"mlp\.{dwconv}\.(.+)", ours + r"mlp.1.\2"),
            (block + r"mlp\.fc2\.(.+)", ours + r"mlp.3.\2"),
        ]
    return Layout(name, tuple(rules))


LAYOUTS = (
    # Visual-Attention-Network/SegNeXt, mmseg/models/backbones/mscan.py: mscan_t.pth to mscan_l.pth.
    _layout("original MSCAN", r"dwconv\.dwconv"),
    # open-mmlab/mmsegmentation, mmseg/models/backbones/mscan.py: mscan_b_20230227-3ab7d230.pth etc.
    _layout("mmsegmentation MSCAN", "dwconv"),
    own_layout("stages"),
)
