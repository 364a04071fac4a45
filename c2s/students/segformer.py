"""SegFormer-B0 to B5: MiT encoder, 256-channel all-MLP head, classifier widened to D outputs.

Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers"
(NeurIPS 2021). The encoder is that of Hugging Face transformers, built from an explicit
configuration. The head is mmsegmentation's, with 256 channels for every size and batch norm on every
level, which is what reproduces the sums of the paper's Table III.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SegformerConfig, SegformerModel

from c2s.students.base import FeatureStudent, initialise_convolutions, to_multiple
from c2s.students.weights import Layout, State, load_encoder, own_layout

HEAD_CHANNELS = 256
STRIDE = 32
"""Of the last stage."""
SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "b0": ((32, 64, 160, 256), (2, 2, 2, 2)),
    "b1": ((64, 128, 320, 512), (2, 2, 2, 2)),
    "b2": ((64, 128, 320, 512), (3, 4, 6, 3)),
    "b3": ((64, 128, 320, 512), (3, 4, 18, 3)),
    "b4": ((64, 128, 320, 512), (3, 8, 27, 3)),
    "b5": ((64, 128, 320, 512), (3, 6, 40, 3)),
}
"""Widths and depths of the four stages."""


class AllMLPHead(nn.Module):
    """A linear layer per stage, joined at 1/4; mmsegmentation's SegformerHead."""

    def __init__(self, widths: Sequence[int], dim: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(_conv_norm(width) for width in widths)
        self.fuse = _conv_norm(len(widths) * HEAD_CHANNELS)
        self.dropout = nn.Dropout2d(0.1)
        self.classifier = nn.Conv2d(HEAD_CHANNELS, dim, 1)
        initialise_convolutions(self, self.classifier)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """[B, C_i, H / s, W / s] for s = 4, 8, 16, 32 -> [B, D, H / 4, W / 4]."""
        size = maps[0].shape[-2:]
        joined = [
            F.interpolate(level(m), size, mode="bilinear", align_corners=False)
            for level, m in zip(self.levels, maps, strict=True)
        ]
        features: Tensor = self.classifier(self.dropout(self.fuse(torch.cat(joined, dim=1))))
        return features


def _conv_norm(inputs: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, HEAD_CHANNELS, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(HEAD_CHANNELS), nn.ReLU())


class SegFormer(FeatureStudent):
    """SegFormer with features at 1/4 of the input.

    Its stock schedule is the trainer's default (AdamW 6e-5, weight decay 0.01, head x 10, linear
    warm-up of 1500 iterations, poly of power 1).

    Args:
        size: "b0" ... "b5".
        dim: D.
        weights: encoder weights in a layout of `LAYOUTS` (`mit_b4.pth`, the hub's nvidia/mit-b4, ...;
            see `c2s.students.weights.read_checkpoint` for what may hold them); None: random.

    Raises:
        ConfigError: the weights cannot be read or do not fit the encoder.
    """

    classifier = "head.classifier"

    def __init__(self, size: str, dim: int, weights: str | None = None) -> None:
        super().__init__()
        widths, depths = SIZES[size]
        config = SegformerConfig(
            num_encoder_blocks=4,
            hidden_sizes=list(widths),
            depths=list(depths),
            num_attention_heads=[1, 2, 5, 8],
            sr_ratios=[8, 4, 2, 1],
            mlp_ratios=[4, 4, 4, 4],
            patch_sizes=[7, 3, 3, 3],
            strides=[4, 2, 2, 2],
            drop_path_rate=0.1,
        )
        self.dim = dim
        self.backbone = SegformerModel(config)
        for module in self.backbone.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e-6  # mmsegmentation's; transformers has its own for some norms
        self.head = AllMLPHead(widths, dim)
        if weights is not None:
            renamed = hasattr(self.backbone, "stages")
            load_encoder(self.backbone, weights, LAYOUTS, to_transformers if renamed else None)

    def forward(self, images: Tensor) -> Tensor:
        """Features float [B, D, H / 4, W / 4] of normalised images [B, 3, H, W]."""
        images = to_multiple(images, STRIDE)
        maps = self.backbone(images, output_hidden_states=True).hidden_states
        features: Tensor = self.head(maps)
        return features


HUB_TO_TRANSFORMERS = (
    (r"^encoder\.patch_embeddings\.(\d)", r"stages.\1.patch_embeddings"),
    (r"^encoder\.block\.(\d)", r"stages.\1.blocks"),
    (r"^encoder\.layer_norm\.(\d)", r"stages.\1.layer_norm"),
    (r"attention\.self\.(query|key|value)", lambda m: f"attention.{m[1][0]}_proj"),
    (r"attention\.self\.sr", "attention.sequence_reduction.sequence_reduction"),
    (r"attention\.self\.layer_norm", "attention.sequence_reduction.layer_norm"),
    (r"attention\.output\.dense", "attention.o_proj"),
    (r"mlp\.dense(\d)", r"mlp.fc\1"),
    (r"layer_norm_1", "layernorm_before"),
    (r"layer_norm_2", "layernorm_after"),
)
"""What newer releases of transformers call the hub's parameters (transformers/conversion_mapping.py)."""


def to_transformers(state: State) -> State:
    """Parameters of the hub's names under those of `SegformerModel`; other names stay."""

    def rename(name: str) -> str:
        for pattern, ours in HUB_TO_TRANSFORMERS:
            name = re.sub(pattern, ours, name)
        return name

    return {rename(name): tensor for name, tensor in state.items()}


def _original() -> Layout:
    """NVlabs/SegFormer, mmseg/models/backbones/mix_transformer.py: mit_b0.pth to mit_b5.pth."""
    rules: list[tuple[str, str | tuple[str, ...]]] = []
    for n in range(4):
        block = rf"block{n + 1}\.(\d+)\."
        hub = rf"encoder.block.{n}.\1."
        rules += [
            (rf"patch_embed{n + 1}\.proj\.(.+)", rf"encoder.patch_embeddings.{n}.proj.\1"),
            (rf"patch_embed{n + 1}\.norm\.(.+)", rf"encoder.patch_embeddings.{n}.layer_norm.\1"),
            (rf"norm{n + 1}\.(.+)", rf"encoder.layer_norm.{n}.\1"),
            (block + r"norm([12]\..+)", hub + r"layer_norm_\2"),
            (block + r"attn\.q\.(.+)", hub + r"attention.self.query.\2"),
            (
                block + r"attn\.kv\.(.+)",
                (hub + r"attention.self.key.\2", hub + r"attention.self.value.\2"),
            ),
            (block + r"attn\.proj\.(.+)", hub + r"attention.output.dense.\2"),
            (block + r"attn\.sr\.(.+)", hub + r"attention.self.sr.\2"),
            (block + r"attn\.norm\.(.+)", hub + r"attention.self.layer_norm.\2"),
            (block + r"mlp\.fc([12]\..+)", hub + r"mlp.dense\2"),
            (block + r"mlp\.dwconv\.(.+)", hub + r"mlp.dwconv.\2"),
        ]
    return Layout("original MiT", tuple(rules))


def _mmsegmentation() -> Layout:
    """open-mmlab/mmsegmentation, tools/model_converters/mit2mmseg.py: mit_b4_20220624-d588d980.pth etc."""
    block = r"layers\.(\d)\.1\.(\d+)\."
    hub = r"encoder.block.\1.\2."
    attention = tuple(hub + rf"attention.self.{part}.\3" for part in ("query", "key", "value"))
    return Layout(
        "mmsegmentation MiT",
        (
            (r"layers\.(\d)\.0\.projection\.(.+)", r"encoder.patch_embeddings.\1.proj.\2"),
            (r"layers\.(\d)\.0\.norm\.(.+)", r"encoder.patch_embeddings.\1.layer_norm.\2"),
            (r"layers\.(\d)\.2\.(.+)", r"encoder.layer_norm.\1.\2"),
            (block + r"norm([12]\..+)", hub + r"layer_norm_\3"),
            (block + r"attn\.attn\.in_proj_(.+)", attention),
            (block + r"attn\.attn\.out_proj\.(.+)", hub + r"attention.output.dense.\3"),
            (block + r"attn\.sr\.(.+)", hub + r"attention.self.sr.\3"),
            (block + r"attn\.norm\.(.+)", hub + r"attention.self.layer_norm.\3"),
            (block + r"ffn\.layers\.0\.(.+)", hub + r"mlp.dense1.\3"),
            (block + r"ffn\.layers\.1\.(.+)", hub + r"mlp.dwconv.dwconv.\3"),
            (block + r"ffn\.layers\.4\.(.+)", hub + r"mlp.dense2.\3"),
        ),
    )


LAYOUTS = (
    _original(),
    _mmsegmentation(),
    # Hugging Face transformers, models/segformer, as its hub stores it.
    Layout("Hugging Face SegFormer", ((r"(encoder\..+)", r"\1"),)),
    own_layout("stages"),
)
