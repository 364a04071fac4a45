"""Invariant: a CLIP model is open_clip's own, found by name, and frozen."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from c2s_cache import C2SError, ConfigError
from c2s_cache.hub import hub, hub_answers
from c2s_pipeline.extras import quiet, require
from c2s_pipeline.teachers.base import TeacherSpec
from c2s_pipeline.teachers.clip_names import (
    FOLDER,
    HUB,
    RANDOM,
    Activation,
    check_names,
    default_pretrained,
    named_activation,
    not_here,
    other_activation,
    own_weights,
    weights_file,
)
from c2s_pipeline.teachers.model_folder import check_model
from c2s_pipeline.teachers.weights_file import Weights, packed_weights


def resolved(spec: TeacherSpec) -> TeacherSpec:
    """The same with the weights that are meant where none are named."""
    return replace(spec, pretrained=spec.pretrained or default_pretrained(spec.name))


def create_model(spec: TeacherSpec) -> tuple[nn.Module, str | None]:
    """The frozen model at its native size, and what there is to say about it (None: nothing).

    OpenAI's weights, known by the entries that they have beside them, get QuickGELU whatever the name.

    Raises:
        ConfigError: open_clip has no model, or no weights, of that name, or a folder asks for code.
        C2SError: the weights cannot be loaded or downloaded.
    """
    with loading(spec):
        file = weights_file(spec.name, spec.pretrained)
        packed = None if file is None else packed_weights(file)
        model = _loaded(spec, packed)
    told = packed is not None and packed.resolution is not None
    given = file is None or own_weights(spec.name) or spec.activation is not None
    said = None if told or given else _untold(spec.name, file)
    return model.eval().requires_grad_(False), said


@contextmanager
def loading(spec: TeacherSpec) -> Iterator[None]:
    """Around whatever loads a model: refuses what cannot be loaded, and says in one sentence what went wrong.

    Raises:
        ConfigError: open_clip has no model, or no weights, of that name, or a folder asks for code.
        C2SError: the weights cannot be loaded or downloaded.
    """
    check_names(spec.name, spec.pretrained)
    check_model(spec.name)
    try:
        with quiet(), hub():
            yield
    except C2SError:
        raise
    except Exception as error:  # open_clip, and what it reads and downloads with, fail in many ways
        fetched = _fetched(spec)
        if fetched and not hub_answers():
            raise not_here(spec.name, spec.pretrained) from error
        weights = f" with weights {spec.pretrained!r}" if spec.pretrained else ""
        way = "loaded or downloaded" if fetched else "loaded"
        raise C2SError(
            f"teacher {spec.name}{weights} cannot be {way}: {_reason(error)}",
            "Name a model of open_clip with --teacher, and a file that fits it with --pretrained.",
        ) from error


def _fetched(spec: TeacherSpec) -> bool:
    """Whether the weights come from open_clip's or anybody's repository."""
    return (
        weights_file(spec.name, spec.pretrained) is None
        and not spec.name.startswith(FOLDER)
        and spec.pretrained != RANDOM
    )


def find_weights(spec: TeacherSpec) -> Path | None:
    """The file of a spec's weights, downloaded if need be; None: there is none, they are drawn."""
    if not _fetched(spec):
        return weights_file(spec.name, spec.pretrained)
    pretrained = require("open_clip", "build").pretrained
    if spec.name.startswith(HUB):
        return Path(pretrained.download_pretrained_from_hf(spec.name.removeprefix(HUB)))
    tag = pretrained.get_pretrained_cfg(spec.name, spec.pretrained)
    return Path(pretrained.download_pretrained(tag))


def blank_model(spec: TeacherSpec, packed: Weights | None, **changes: Any) -> nn.Module:
    """The model of a spec with the activation that its weights were trained with, and with none of them.

    Args:
        spec: what to load.
        packed: its weights, where open_clip does not read them.
        changes: to the model's configuration.
    """
    openai = packed is not None and packed.resolution is not None
    named = named_activation(spec.name, spec.pretrained)
    model: nn.Module = require("open_clip", "build").create_model(
        spec.name,
        force_quick_gelu=openai or (spec.activation or named) == "quick_gelu",
        load_weights=False,
        pretrained_text=False,
        **changes,
    )
    return model


def _loaded(spec: TeacherSpec, packed: Weights | None) -> nn.Module:
    """The model with its weights: open_clip's way, or filled from those that it does not read."""
    open_clip = require("open_clip", "build")
    if packed is None and spec.pretrained != RANDOM:
        quick = (spec.activation or named_activation(spec.name, spec.pretrained)) == "quick_gelu"
        model: nn.Module = open_clip.create_model(
            spec.name,
            pretrained=spec.pretrained,
            force_quick_gelu=quick,
            require_pretrained=True,
            pretrained_text=False,
        )
        return model
    if packed is None:
        torch.manual_seed(0)
    model = blank_model(spec, packed)
    if packed is not None:
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


def activation_of(*parts: nn.Module) -> Activation:
    """The activation that a model, or parts of one, compute."""
    quick = require("open_clip", "build").transformer.QuickGELU
    modules = (module for part in parts for module in part.modules())
    return "quick_gelu" if any(isinstance(m, quick) for m in modules) else "gelu"


def _reason(error: BaseException) -> str:
    """What an error says, in one line of whole words."""
    said = " ".join(str(error).split()) or type(error).__name__
    return textwrap.shorten(said, 400, placeholder=" ...")
