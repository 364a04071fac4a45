"""Invariant: which family an open_clip model belongs to follows from its configuration, without its weights."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from c2s_cache import C2SError, ConfigError
from c2s_pipeline.extras import require
from c2s_pipeline.teachers.base import TeacherSpec
from c2s_pipeline.teachers.clip_model import (
    activation_of,
    blank_model,
    create_model,
    loading,
    resolved,
)
from c2s_pipeline.teachers.clip_names import RANDOM, own_weights
from c2s_pipeline.teachers.clip_text import TINY, OpenClipText, load_text, text_digest
from c2s_pipeline.teachers.digest import weights_digest
from c2s_pipeline.teachers.image_teacher import ImageTeacher, Preprocessing
from c2s_pipeline.teachers.model_folder import model_config
from c2s_pipeline.teachers.open_clip_resnet import OpenClipResNet
from c2s_pipeline.teachers.open_clip_vit import OpenClipViT
from c2s_pipeline.teachers.timm_convolution import TimmConvolution
from c2s_pipeline.teachers.timm_map import TimmMapViT
from c2s_pipeline.teachers.timm_vit import TimmViT
from c2s_pipeline.teachers.tower import Tower

TINY_TEXT = {"context_length": 8, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}
"""A text tower that costs nothing, in place of the one that is not wanted."""


class OpenClipTeacher(ImageTeacher):
    """One of open_clip's models, of whichever family its image tower is.

    Args:
        spec, device, pool: see `c2s_pipeline.teachers.registry.load_teacher`.

    Raises:
        ConfigError: unknown model or weights, a tower that cannot be distilled from, or not with these features.
        MissingExtra: open_clip is not installed.
    """

    def __init__(self, spec: TeacherSpec, device: torch.device, pool: Executor | None) -> None:
        family = tower_of(spec.name)
        spec = resolved(spec)
        model, notice = create_model(spec)
        self._model: Any = model.to(device)
        visual, spec = self._model.visual, replace(spec, activation=activation_of(model))
        super().__init__(
            spec, family(visual, spec.name), _preprocessing(visual, spec), device, pool
        )
        self.notice = notice

    @classmethod
    def load_text(cls, spec: TeacherSpec, device: torch.device) -> OpenClipText:
        """The text tower without the image tower; see `c2s_pipeline.teachers.registry.load_text_encoder`."""
        return load_text(resolved(spec), device)

    @cached_property
    def text(self) -> OpenClipText:
        """See `ImageTeacher`."""
        return OpenClipText(self._model, self.spec, self.device)

    def digests(self) -> tuple[str, str]:
        """See `ImageTeacher`."""
        visual = self._model.visual
        tower = weights_digest(visual.state_dict(), activation_of(visual))
        return tower, text_digest(self._model)

    def logits(self) -> tuple[float | None, float | None]:
        """See `ImageTeacher`."""
        bias = getattr(self._model, "logit_bias", None)
        scale = self._model.logit_scale.detach().exp()
        return float(scale), None if bias is None else float(bias.detach())


def tower_of(name: str) -> type[Tower]:
    """The family of a model's image tower.

    Raises:
        ConfigError: c2s cannot distil from such a tower.
        C2SError: its configuration cannot be read.
    """
    vision = model_config(name)["vision_cfg"]
    architecture = vision.get("timm_model_name")
    if not architecture:
        return OpenClipResNet if isinstance(vision.get("layers"), list) else OpenClipViT
    import timm

    if not timm.is_model(architecture):
        raise ConfigError(
            f"teacher {name} has the image tower {architecture!r}, which timm does not have by that name."
        )
    if vision.get("timm_proj") == "mlp" or str(vision.get("timm_pool")).endswith("_attn"):
        raise ConfigError(
            f"teacher {name} has a head that is not linear, so its patches cannot be projected one by one.",
            "Choose another model: c2s teachers list",
        )
    if vision.get("timm_pool") == "map":
        return TimmMapViT
    known = timm.get_pretrained_cfg(architecture)
    # timm's own word for towers whose last values are a map, and not tokens
    return TimmViT if known is None or known.pool_size is None else TimmConvolution


def blank_towers(name: str) -> tuple[Tower, Preprocessing, nn.Module, nn.Module | None]:
    """Image tower of a model on the meta device, its preprocessing, and the modules of both towers (None: what its
    text tower is made of is not on this machine).

    Raises:
        ConfigError, C2SError: see `tower_of`; or open_clip cannot make it.
    """
    family, spec = tower_of(name), TeacherSpec(name, None if own_weights(name) else RANDOM)
    meta: dict[str, Any] = {"device": "meta"}
    with torch.device("meta"):
        with loading(spec):
            visual: Any = blank_model(spec, None, text_cfg=TINY_TEXT, **meta).visual
        try:
            with loading(spec):
                text: nn.Module | None = blank_model(spec, None, vision_cfg=TINY, **meta)
        except C2SError:
            text = None
    if text is not None:
        text.visual = nn.Identity()
    visual = visual.eval().requires_grad_(False)
    return family(visual, name), _preprocessing(visual, spec), visual, text


def _preprocessing(visual: Any, spec: TeacherSpec) -> Preprocessing:
    """That of a tag or of a folder; of a file, which does not tell, that of all tags of its model."""
    open_clip = require("open_clip", "build")
    keys = ("mean", "std", "resize_mode", "interpolation")
    found = tuple(visual.preprocess_cfg[key] for key in keys)
    if not (own_weights(spec.name) or open_clip.get_pretrained_cfg(spec.name, spec.pretrained)):
        tags = open_clip.list_pretrained_tags_by_model(spec.name)
        configs = [open_clip.get_pretrained_cfg(spec.name, tag) for tag in tags]
        ways = {tuple(config[key] for key in keys) for config in configs}
        if len(ways) == 1:
            (found,) = ways
    return Preprocessing.named(spec.name, *found)
