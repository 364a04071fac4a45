"""Encoders of timm under SegFormer's all-MLP head: `timm:convnext_tiny`."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import timm
import torch
from torch import Tensor, nn
from transformers import SegformerConfig
from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

from c2s.students.adapters.library_student import InputSpec, LibraryStudent, channels
from c2s.students.adapters.weights import PRETRAINED, fitting, is_file, making
from c2s.students.segformer import HEAD_CHANNELS
from c2s.students.weights import read_checkpoint
from c2s_cache.errors import ConfigError

FINEST = 4
"""Stride of the finest map that the head takes."""


class Pyramid(nn.Module):
    """An encoder's feature maps, from the one of stride 4 on, under a head.

    Every map goes through a linear layer to 256 channels and is resized to the finest; all are joined by a
    1 x 1 convolution, batch norm and ReLU, and a last one gives the outputs (Xie et al., "SegFormer",
    NeurIPS 2021, Sec. 3.2). An encoder of one scale has several maps of it, or one.

    Args:
        encoder: made by timm with `features_only`.
        dim: D.
    """

    def __init__(self, encoder: Any, dim: int) -> None:
        super().__init__()
        strides, widths = encoder.feature_info.reduction(), encoder.feature_info.channels()
        self.encoder = encoder
        self.taken = [i for i, stride in enumerate(strides) if stride >= FINEST]
        self.channels_last = str(getattr(encoder, "output_fmt", "NCHW")).endswith("NHWC")
        self.head = SegformerDecodeHead(
            SegformerConfig(
                num_encoder_blocks=len(self.taken),
                hidden_sizes=[widths[i] for i in self.taken],
                decoder_hidden_size=HEAD_CHANNELS,
                num_labels=dim,
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] to [B, D, h, w], h and w of the finest map."""
        maps = self.encoder(images)
        maps = [maps[i] for i in self.taken]
        if self.channels_last:
            maps = [m.permute(0, 3, 1, 2) for m in maps]
        out: Tensor = self.head(maps)
        return out


def build(name: str, dim: int, weights: str | None, config: Any = None) -> LibraryStudent:
    """A timm encoder under a light head.

    Args:
        name: of an encoder, such as "convnext_tiny" or "vit_small_patch16_224.augreg_in21k".
        dim: D.
        weights: None or "random": none; "pretrained": those that timm has for the name; or a file of
            them.
        config: unused.

    Raises:
        ConfigError: no such encoder, it gives no feature maps, or the weights cannot be had or do not fit.
    """
    encoder = encoder_of(name, weights, f"timm:{name}")
    facts = timm.get_pretrained_cfg(name, allow_unregistered=False)
    multiple = max(encoder.feature_info.reduction())
    rigid = facts.fixed_input_size and not _runs(encoder, 2 * multiple, 3 * multiple)
    input = InputSpec(
        multiple, facts.input_size[-1] if rigid else None, channels(facts.mean), channels(facts.std)
    )
    model = Pyramid(encoder, dim)
    return LibraryStudent(model, model.encoder, input)


def encoder_of(name: str, weights: str | None, what: str) -> Any:
    """An encoder that gives feature maps.

    Args:
        name: of it.
        weights: as for `build`.
        what: is to be made of it, for messages.

    Raises:
        ConfigError: as for `build`.
    """
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), 5)
        hint = f"Near it are {', '.join(near)}." if near else None
        raise ConfigError(f"timm has no encoder {name!r}.", hint)
    with making(what, weights):
        return _encoder(name, _pretrained(name, weights))


def _pretrained(name: str, weights: str | None) -> dict[str, Any]:
    """Options of `timm.create_model` for weights as `build` takes them."""
    if weights is None:
        return {"pretrained": False}
    if weights in PRETRAINED:
        return {"pretrained": True}
    if not is_file(weights):
        raise ConfigError(
            f"timm:{name} takes the weights pretrained, random or a file, not {weights!r}."
        )
    # timm ignores what does not fit, so the whole model without its classifier is asked first.
    with torch.device("meta"):
        whole = timm.create_model(name, num_classes=0)
    state = fitting(whole.state_dict(), read_checkpoint(weights), weights)
    return {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": state}}


def _encoder(name: str, options: dict[str, Any]) -> Any:
    """An encoder of feature maps, made for images of any size where timm has a choice."""
    try:
        encoder = timm.create_model(name, features_only=True, dynamic_img_size=True, **options)
    except TypeError:  # an encoder without that choice
        encoder = timm.create_model(name, features_only=True, **options)
    encoder.pretrained_cfg.pop("state_dict", None)  # or it would be kept and copied with the module
    return encoder


def _runs(encoder: nn.Module, height: int, width: int) -> bool:
    """Whether a new encoder takes images of that size; it stays as it is."""
    device = next(encoder.parameters()).device
    encoder.eval()
    try:
        with torch.no_grad():
            encoder(torch.zeros(1, 3, height, width, device=device))
    except Exception:  # each encoder of a fixed size has its own way to say so
        return False
    finally:
        encoder.train()
    return True
