"""Masked autoencoding beside the distillation: the hidden patches' pixels from those that were seen."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import ViTMAEConfig
from transformers.models.vit_mae.modeling_vit_mae import ViTMAEDecoder

from c2s.students.grouping import Grouped, GroupingStudent
from c2s.students.grouping_head import xavier
from c2s.students.mae_grouping import EPS, square_positions


class Reconstruction(nn.Module):
    """MAE's decoder, in pixels as they are normalised for the student.

    Args:
        student: whose patches it decodes.
        layers, width, heads: of the decoder.

    Raises:
        ValueError: the heads do not divide the width.
    """

    def __init__(self, student: GroupingStudent, layers: int, width: int, heads: int) -> None:
        super().__init__()
        if width % (4 * heads):
            raise ValueError(
                f"method.decoder: width {width} is no multiple of four times {heads} heads."
            )
        self.patch = student.patch
        config = ViTMAEConfig(
            hidden_size=student.width,
            patch_size=student.patch,
            layer_norm_eps=EPS,
            decoder_hidden_size=width,
            decoder_num_hidden_layers=layers,
            decoder_num_attention_heads=heads,
            decoder_intermediate_size=4 * width,
        )
        config._attn_implementation = "sdpa"
        self.decoder = ViTMAEDecoder(config, student.grid**2)
        positions = self.decoder.decoder_pos_embed.detach()
        del self.decoder.decoder_pos_embed
        self.decoder.register_buffer("decoder_pos_embed", positions, persistent=False)
        xavier(self)

    def forward(self, grouped: Grouped, images: Tensor) -> Tensor:
        """Mean squared error of the pixels of hidden patches; 0 if none is hidden.

        Args:
            grouped: what the student made of the images.
            images: float [B, 3, S, S].
        """
        found = self.decoded(grouped)
        errors = (found - patchify(images, self.patch)).square().mean(-1)  # [B, L]
        hidden = grouped.restore >= grouped.kept.shape[1]
        return torch.where(hidden, errors, 0).sum() / hidden.sum().clamp(min=1)

    def decoded(self, grouped: Grouped) -> Tensor:
        """Pixels of all patches: float [B, L, patch * patch * 3]."""
        decoder, side = self.decoder, math.isqrt(grouped.restore.shape[1])
        native = decoder.decoder_pos_embed
        # transformers itself would resample positions along one axis
        decoder.decoder_pos_embed = square_positions(native, side, side)
        try:
            logits: Tensor = decoder(grouped.patches, grouped.restore).logits
        finally:
            decoder.decoder_pos_embed = native
        return logits


def patchify(images: Tensor, patch: int) -> Tensor:
    """Pixels of each patch, row after row, RGB last: [B, 3, H, W] -> [B, L, patch * patch * 3]."""
    batch, channels, height, width = images.shape
    cut = images.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, patch * patch * channels)
