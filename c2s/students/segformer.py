"""SegFormer-B0 to B5: MiT encoder, 256-channel all-MLP head, classifier widened to D outputs.

The head has 256 channels for every size, which is what reproduces the sums of the paper's Table
III; the encoder and head are those of Hugging Face transformers, built from an explicit
configuration.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from c2s.students.base import Student
from c2s_cache.errors import ConfigError

HEAD_CHANNELS = 256
SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "b0": ((32, 64, 160, 256), (2, 2, 2, 2)),
    "b1": ((64, 128, 320, 512), (2, 2, 2, 2)),
    "b2": ((64, 128, 320, 512), (3, 4, 6, 3)),
    "b3": ((64, 128, 320, 512), (3, 4, 18, 3)),
    "b4": ((64, 128, 320, 512), (3, 8, 27, 3)),
    "b5": ((64, 128, 320, 512), (3, 6, 40, 3)),
}
"""Widths and depths of the four stages."""


class SegFormer(Student):
    """SegFormer with features at 1/4 of the input.

    Args:
        size: "b0" ... "b5".
        dim: D.
        weights: encoder weights: a safetensors file, a local Hugging Face folder, or a model id on
            the hub such as "nvidia/mit-b4"; None starts from random weights.

    Raises:
        ConfigError: the weights cannot be read or do not fit the encoder.
    """

    classifier = "head.classifier"

    def __init__(self, size: str, dim: int, weights: str | None = None) -> None:
        super().__init__()
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

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
            classifier_dropout_prob=0.1,
            layer_norm_eps=1e-6,
            decoder_hidden_size=HEAD_CHANNELS,
            num_labels=dim,
        )
        model = SegformerForSemanticSegmentation(config)
        self.dim = dim
        self.backbone = model.segformer
        self.head = model.decode_head
        if weights is not None:
            load_encoder(self.backbone, weights)

    def forward(self, images: Tensor) -> Tensor:
        """Features float [B, D, H / 4, W / 4] of normalised images [B, 3, H, W]."""
        stages = self.backbone(images, output_hidden_states=True).hidden_states
        features: Tensor = self.head(stages)
        return features


def load_encoder(encoder: torch.nn.Module, weights: str) -> None:
    """Fill an encoder with pretrained weights; heads among them are left out.

    Args:
        encoder: transformers' SegformerModel.
        weights: as for `SegFormer`.

    Raises:
        ConfigError: nothing readable there, or parameters are missing or of another shape.
    """
    state = _encoder_state(weights)
    own = encoder.state_dict()
    wrong = [k for k, v in own.items() if k not in state or state[k].shape != v.shape]
    if wrong:
        found = tuple(state[wrong[0]].shape) if wrong[0] in state else "nothing"
        raise ConfigError(
            f"Weights {weights} do not fit the encoder: {len(wrong)} of {len(own)} parameters "
            f"differ, first {wrong[0]} (expected {tuple(own[wrong[0]].shape)}, got {found}).",
            "Choose the weights of the same SegFormer size.",
        )
    encoder.load_state_dict({k: state[k] for k in own})


def _encoder_state(weights: str) -> dict[str, Tensor]:
    path = Path(weights)
    if path.is_file():
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            state = load_file(path)
        except SafetensorError as error:
            raise ConfigError(
                f"{path} is not a safetensors file ({error}).",
                "Convert the checkpoint; files that would have to be unpickled are never opened.",
            ) from error
        return {re.sub(r"^(model\.)?(segformer\.|backbone\.)", "", k): v for k, v in state.items()}
    from transformers import SegformerModel

    try:
        model = SegformerModel.from_pretrained(weights, use_safetensors=True)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"No SegFormer encoder can be loaded from {weights!r}: {reason}",
            "Give a safetensors file, a Hugging Face folder with model.safetensors, or a hub id.",
        ) from error
    return dict(model.state_dict())
