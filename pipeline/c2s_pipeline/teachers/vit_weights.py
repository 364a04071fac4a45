"""Invariant: a tower is given away only if a plain CLIP vision transformer of these weights says what it says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from c2s_cache import ConfigError, TeacherInfo
from c2s_cache.tower import TowerInfo
from c2s_pipeline.teachers.base import Teacher
from c2s_pipeline.teachers.open_clip_vit import OpenClipViT
from c2s_pipeline.teachers.transformers_towers import TransformersCLIP

Found = tuple[dict[str, Any], Mapping[str, Tensor]]

TRANSFORMERS = (
    (r"vision_model\.embeddings\.class_embedding", "class_embedding"),
    (r"vision_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"vision_model\.embeddings\.patch_embedding\.weight", "conv1.weight"),
    (r"vision_model\.pre_layrnorm\.(.+)", r"ln_pre.\1"),
    (r"vision_model\.post_layernorm\.(.+)", r"ln_post.\1"),
    (r"visual_projection\.weight", "proj"),
    (
        r"vision_model\.encoder\.layers\.(\d+)\.layer_norm([12])\.(.+)",
        r"transformer.resblocks.\1.ln_\2.\3",
    ),
    (
        r"vision_model\.encoder\.layers\.(\d+)\.self_attn\.out_proj\.(.+)",
        r"transformer.resblocks.\1.attn.out_proj.\2",
    ),
    (
        r"vision_model\.encoder\.layers\.(\d+)\.mlp\.fc1\.(.+)",
        r"transformer.resblocks.\1.mlp.c_fc.\2",
    ),
    (
        r"vision_model\.encoder\.layers\.(\d+)\.mlp\.fc2\.(.+)",
        r"transformer.resblocks.\1.mlp.c_proj.\2",
    ),
)
"""What transformers' CLIPModel calls its tensors, and open_clip's ViT the same ones; q, k and v are joined."""


def vit_weights(teacher: Teacher, told: TeacherInfo) -> tuple[TowerInfo, dict[str, NDArray[Any]]]:
    """What there is to know of a teacher's image tower, and its tensors as float32 by open_clip's names.

    Args:
        teacher: whose.
        told: what the manifest says of it.

    Raises:
        ConfigError: the tower is no vision transformer, or one with more parts than CLIP's.
    """
    tower = getattr(teacher, "tower", None)
    found = None
    if isinstance(tower, OpenClipViT):
        found = _open_clip(tower)
    elif type(tower) is TransformersCLIP:
        found = _transformers(tower)
    if found is not None:
        facts, tensors = found
        seen = {"digest": told.tower_digest, "mean": told.mean, "std": told.std, "dim": told.dim}
        try:
            info = TowerInfo.model_validate(facts | seen)
        except ValidationError:  # another activation
            pass
        else:
            if {k: tuple(v.shape) for k, v in tensors.items()} == info.shapes():
                plain = {k: v.detach().cpu().float().numpy() for k, v in tensors.items()}
                return info, {k: np.ascontiguousarray(v) for k, v in plain.items()}
    raise ConfigError(
        f"teacher {teacher.spec.name} has an image tower that is no plain CLIP vision transformer ({kind(tower)}), so "
        "there is no tower to store.",
        "Leave the stage tower (method clip-rc) out, or choose another teacher: c2s teachers list",
    )


def kind(tower: Any) -> str:
    """What a tower is called."""
    return str(getattr(tower, "family", None) or "of a kind of its own")


def _open_clip(tower: OpenClipViT) -> Found | None:
    visual: Any = tower.visual
    if visual.final_ln_after_pool or visual.attn_pool is not None:
        return None
    block = visual.transformer.resblocks[0]
    names = {type(m).__name__ for m in block.mlp}
    quick = "QuickGELU" in names
    return {
        "width": tower.width,
        "layers": len(visual.transformer.resblocks),
        "heads": block.attn.num_heads,
        "mlp": block.mlp.c_fc.out_features,
        "patch": tower.patch_size,
        "image_size": tower.image_size,
        "activation": "quick_gelu" if quick else "gelu" if "GELU" in names else "other",
        "pool": visual.pool_type,
        "eps": visual.ln_post.eps,
    }, visual.state_dict()


def _transformers(tower: TransformersCLIP) -> Found:
    config: Any = tower.visual.config.vision_config
    state = tower.visual.state_dict()
    tensors: dict[str, Tensor] = {}
    for name, value in state.items():
        for pattern, ours in TRANSFORMERS:
            if re.fullmatch(pattern, name):
                tensors[re.sub(pattern, ours, name)] = value
    tensors["proj"] = tensors["proj"].T
    for layer in range(config.num_hidden_layers):
        attention = f"vision_model.encoder.layers.{layer}.self_attn"
        for part in ("weight", "bias"):
            joined = [state[f"{attention}.{which}_proj.{part}"] for which in "qkv"]
            tensors[f"transformer.resblocks.{layer}.attn.in_proj_{part}"] = torch.cat(joined)
    return {
        "width": config.hidden_size,
        "layers": config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "mlp": config.intermediate_size,
        "patch": config.patch_size,
        "image_size": config.image_size,
        "activation": config.hidden_act,
        "pool": "tok",
        "eps": config.layer_norm_eps,
    }, tensors
