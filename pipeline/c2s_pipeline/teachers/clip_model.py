"""Invariant: a CLIP model is open_clip's own, found by name, and frozen."""

from __future__ import annotations

import copy
import hashlib
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from c2s_cache import C2SError, ConfigError
from c2s_cache.hub import hub, hub_answers
from c2s_pipeline.extras import quiet, require
from c2s_pipeline.teachers.base import TeacherSpec
from c2s_pipeline.teachers.clip_names import (
    FOLDER,
    RANDOM,
    Activation,
    check_names,
    named_activation,
    not_here,
    other_activation,
    own_weights,
    weights_file,
)
from c2s_pipeline.teachers.model_folder import check_model
from c2s_pipeline.teachers.weights_file import Weights, packed_weights


def weights_digest(model: nn.Module) -> str:
    """Hex SHA-256 over the names, shapes, dtypes and bytes of all parameters and persistent buffers."""
    state = model.state_dict()
    hasher = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        hasher.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return hasher.hexdigest()


def create_model(spec: TeacherSpec) -> tuple[nn.Module, str | None]:
    """The frozen model at its native size, and what there is to say about it (None: nothing).

    OpenAI's weights, known by the entries that they have beside them, get QuickGELU whatever the name.

    Raises:
        ConfigError: open_clip has no model, or no weights, of that name, or a folder asks for code.
        C2SError: the weights cannot be loaded or downloaded.
    """
    check_names(spec.name, spec.pretrained)
    check_model(spec.name)
    file = weights_file(spec.name, spec.pretrained)
    try:
        with quiet(), hub():
            packed = None if file is None else packed_weights(file)
            model = _loaded(spec, packed)
    except C2SError:
        raise
    except Exception as error:  # open_clip, and what it reads and downloads with, fail in many ways
        fetched = file is None and not spec.name.startswith(FOLDER) and spec.pretrained != RANDOM
        if fetched and not hub_answers():
            raise not_here(spec.name, spec.pretrained) from error
        weights = f" with weights {spec.pretrained!r}" if spec.pretrained else ""
        way = "loaded or downloaded" if fetched else "loaded"
        raise C2SError(
            f"teacher {spec.name}{weights} cannot be {way}: {_reason(error)}",
            "Name a model of open_clip with --teacher, and a file that fits it with --pretrained.",
        ) from error
    told = packed is not None and packed.resolution is not None
    given = file is None or own_weights(spec.name) or spec.activation is not None
    said = None if told or given else _untold(spec.name, file)
    return model.eval().requires_grad_(False), said


def _loaded(spec: TeacherSpec, packed: Weights | None) -> nn.Module:
    """The model with its weights: open_clip's way, or filled from those that it does not read."""
    open_clip = require("open_clip", "build")
    bare = packed is not None or spec.pretrained == RANDOM
    openai = packed is not None and packed.resolution is not None
    named = named_activation(spec.name, spec.pretrained)
    if spec.pretrained == RANDOM:
        torch.manual_seed(0)
    model: nn.Module = open_clip.create_model(
        spec.name,
        pretrained=None if bare else spec.pretrained,
        force_quick_gelu=openai or (spec.activation or named) == "quick_gelu",
        load_weights=not bare,
        require_pretrained=not bare,
        pretrained_text=False,
    )
    if packed is None:
        return model
    visual: Any = model.visual
    if packed.resolution not in (None, visual.image_size[0]):
        raise ConfigError(
            f"the weights {spec.pretrained} were trained on images of {packed.resolution} pixels, "
            f"{spec.name} takes {visual.image_size[0]}.",
            "Name their model with --teacher, such as ViT-L-14-336.",
        )
    model.load_state_dict(packed.state)
    return model


def _untold(name: str, file: Path | None) -> str:
    """That a file does not tell its activation, which one is used, and how to choose the other."""
    quick = named_activation(name, None) == "quick_gelu"
    choose = other_activation(name)
    way = (
        f"--teacher {choose}"
        if choose
        else 'a local-dir whose open_clip_config.json sets "quick_gelu" in its model_cfg'
    )
    used, other = (
        ("QuickGELU, as those of OpenAI, MetaCLIP and DFN need", "others")
        if quick
        else ("GELU", "those of OpenAI, MetaCLIP and DFN, which need QuickGELU,")
    )
    return (
        f"{file} does not tell which activation its weights were trained with; {name} computes {used}. "
        f"For {other} use {way}."
    )


def activation_of(model: nn.Module) -> Activation:
    """The activation that a model computes."""
    quick = require("open_clip", "build").transformer.QuickGELU
    return "quick_gelu" if any(isinstance(m, quick) for m in model.modules()) else "gelu"


def resized(visual: Any, size: int) -> Any:
    """The same image tower for images of `size` pixels: its position embeddings interpolated."""
    model = require("open_clip", "build").model
    tower = copy.deepcopy(visual)
    tower.image_size = (size, size)
    tower.grid_size = tuple(size // patch for patch in visual.patch_size)
    state = {"visual.positional_embedding": visual.positional_embedding.detach()}
    model.resize_pos_embed(state, SimpleNamespace(visual=tower))
    (positions,) = state.values()
    tower.positional_embedding = nn.Parameter(positions, requires_grad=False)
    return tower


def vision_transformer(model: nn.Module, name: str) -> Any:
    """The image tower of a model.

    Raises:
        ConfigError: it is no ViT that projects its CLS token, or the mean token.
    """
    open_clip = require("open_clip", "build")
    visual: Any = model.visual
    if (
        not isinstance(visual, open_clip.transformer.VisionTransformer)
        or visual.attn_pool is not None
        or visual.pool_type not in ("tok", "avg")
        or visual.proj is None
    ):
        raise ConfigError(
            f"teacher {name} is not a ViT that projects a CLS token (or the mean token), "
            "which C2S distils from.",
            "Choose one such as ViT-B-16.",
        )
    return visual


def _reason(error: BaseException) -> str:
    """What an error says, in one line of whole words."""
    said = " ".join(str(error).split()) or type(error).__name__
    return textwrap.shorten(said, 400, placeholder=" ...")
