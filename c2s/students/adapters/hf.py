"""Semantic segmentation models of transformers: `hf:nvidia/segformer-b0-finetuned-ade-512-512`, `hf:FOLDER`.

Invariant: only transformers' own classes are made; a model that brings code is refused, without a question.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
)

from c2s.students.adapters.classifier import refusal
from c2s.students.adapters.library_student import InputSpec, LibraryStudent, channels
from c2s.students.adapters.weights import PRETRAINED, making
from c2s_cache.errors import ConfigError
from c2s_cache.hub import foreign_kernel, hub

STRIDE = 32
"""Of the last stage of all that are no plain vision transformers."""
RIGID = ("data2vec-vision", "dpt")
"""Types of models that only take squares of the size in their configuration."""
LABELS = ("id2label", "label2id", "num_labels")
ORIGIN = ("_name_or_path", "transformers_version", "architectures", "dtype")


def build(
    name: str, dim: int, weights: str | None, config: Mapping[str, Any] | None = None
) -> LibraryStudent:
    """A semantic segmentation model of transformers without its auxiliary head.

    Args:
        name: folder with a config.json, or id of a model on the hub.
        dim: D.
        weights: None or "random": none; "pretrained": those of `name`; or another folder or id of the same
            backbone. What fits is taken, the whole backbone at least, from safetensors only.
        config: the configuration of an earlier student of that name; `name` is not read then.

    Raises:
        ConfigError: there is no such model, it does not give one class for every cell, or the weights
            cannot be had or do not fit.
    """
    what = f"hf:{name}"
    near = config is not None or Path(name).is_dir()
    with making(what, None), nullcontext() if near else hub():
        stored = (
            AutoConfig.from_pretrained(name, trust_remote_code=False)
            if config is None
            else _restored(config)
        )
        input = InputSpec() if config is not None else _input(stored, name)
    if (kernel := foreign_kernel(stored)) is not None:
        raise ConfigError(
            f"{what}: its configuration asks for the code of {kernel}, which is never run."
        )
    if type(stored) not in MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING:
        raise refusal(
            what, f"a {stored.model_type} gives masks of queries, or no masks, not a class per cell"
        )
    stored.num_labels = dim
    for part in (stored, getattr(stored, "backbone_config", None)):
        for head in ("use_auxiliary_head", "use_pretrained_backbone"):
            if hasattr(part, head):
                setattr(part, head, False)
    with making(what, weights):
        model = _model(stored, name if weights in PRETRAINED else weights)
    base = getattr(model, "backbone", model.base_model)
    kept = {k: v for k, v in stored.to_dict().items() if k not in (*LABELS, *ORIGIN)}
    return LibraryStudent(model, None if base is model else base, input, kept)


def _restored(config: Mapping[str, Any]) -> Any:
    values = dict(config)
    return CONFIG_MAPPING[values.pop("model_type")](**values)


def _model(config: Any, source: str | None) -> Any:
    """A model of that configuration, with the weights of `source` where they fit.

    Raises:
        ConfigError: the backbone lacks some.
    """
    if source is None:
        return AutoModelForSemanticSegmentation.from_config(config, trust_remote_code=False)
    model, found = AutoModelForSemanticSegmentation.from_pretrained(
        source,
        config=config,
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    base = getattr(model, "backbone", model.base_model)
    own = {id(tensor) for tensor in base.state_dict(keep_vars=True).values()}
    missing = {*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])}
    lacking = [
        k for k, v in model.state_dict(keep_vars=True).items() if k in missing and id(v) in own
    ]
    if lacking:
        raise ConfigError(
            f"Weights {source} do not fit: the backbone lacks {len(lacking)} of {len(own)} tensors, first "
            f"{lacking[0]}.",
            "Choose weights of the same architecture.",
        )
    return model


def _input(config: Any, name: str) -> InputSpec:
    """Sizes by the configuration; normalisation by the image processor beside it, ImageNet's without one."""
    inner = getattr(config, "backbone_config", None) or config
    patch = getattr(inner, "patch_size", 1)
    multiple = STRIDE if isinstance(patch, int) and STRIDE % patch == 0 else patch
    side = config.image_size if config.model_type in RIGID else None
    try:
        processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
    except OSError:  # there is none
        return InputSpec(multiple, side)
    # (pixel * factor - mean) / std, in units of pixel / 255
    unit = 1 / (255 * processor.rescale_factor) if processor.do_rescale else 1 / 255
    bgr = bool(getattr(processor, "do_flip_channel_order", False))
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if processor.do_normalize:
        mean, std = processor.image_mean, processor.image_std
    order = slice(None, None, -1 if bgr else None)
    return InputSpec(multiple, side, channels(mean[order], unit), channels(std[order], unit), bgr)
