"""Small members of every family of open_clip's image towers, among its own names in this process."""

from __future__ import annotations

import json
from pathlib import Path

import timm
from timm.layers import GluMlp
from timm.models import ConvNeXt, Eva, FastVit, SwinTransformer, VisionTransformer
from timm.models.vision_transformer_relpos import VisionTransformerRelPos

SIDE = 32
default_cfgs = timm.models._registry.generate_default_cfgs(
    {
        name: {"pool_size": (1, 1), "num_classes": 10, "input_size": (3, SIDE, SIDE)}
        for name in ("tiny_convnext", "tiny_fastvit", "tiny_swin")
    }
)
"""timm says of maps, and of nothing else, how large they are."""
VIT = {"img_size": SIDE, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
ROTATED = {**VIT, "use_rot_pos_emb": True, "ref_feat_shape": (4, 4)}
MAPS = {
    "tiny_convnext": (ConvNeXt, {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 32)}),
    "tiny_fastvit": (
        FastVit,
        {
            "layers": (1, 1, 1, 1),
            "embed_dims": (8, 16, 16, 32),
            "mlp_ratios": (3, 3, 3, 3),
            "token_mixers": ("repmixer", "repmixer", "repmixer", "attention"),
            "se_downsamples": (False, False, True, True),
        },
    ),
    "tiny_swin": (
        SwinTransformer,
        {
            "img_size": SIDE,
            "patch_size": 2,
            "window_size": 2,
            "embed_dim": 8,
            "depths": (2, 2),
            "num_heads": (2, 2),
        },
    ),
}
TOKENS = {
    "tiny_token": (VisionTransformer, VIT),
    "tiny_registers": (VisionTransformer, {**VIT, "reg_tokens": 3, "init_values": 0.5}),
    "tiny_mean": (
        VisionTransformer,
        {**VIT, "class_token": False, "global_pool": "avg", "mlp_layer": GluMlp},
    ),
    "tiny_relpos": (VisionTransformerRelPos, {**VIT, "class_token": True, "init_values": 0.5}),
    "tiny_eva": (Eva, {**ROTATED, "qkv_fused": False, "swiglu_mlp": True, "scale_mlp": True}),
    "tiny_eva_fused": (Eva, {**VIT, "init_values": 0.5}),
    "tiny_eva_post": (Eva, {**VIT, "use_post_norm": True}),
    "tiny_map": (VisionTransformer, {**VIT, "class_token": False, "global_pool": "map"}),
    "tiny_pe": (Eva, {**ROTATED, "attn_type": "rope", "use_pre_transformer_norm": True}),
}
"""Classes of timm and how a small member is made."""

POOLS = {
    **dict.fromkeys(("tiny_token", "tiny_registers", "tiny_eva", "tiny_eva_fused"), "token"),
    **dict.fromkeys(("tiny_eva_post", "tiny_relpos"), "token"),
    **dict.fromkeys(("tiny_map", "tiny_pe"), "map"),
    **dict.fromkeys(("tiny_mean", "tiny_fastvit", "tiny_convnext", "tiny_swin"), "avg"),
}
LINEAR = ("tiny_convnext", "tiny_swin", "tiny_mean", "tiny_relpos")
"""Those whose projection open_clip adds behind the head of timm."""


def _registered(name: str, made: type, settings: dict[str, object]) -> None:
    def build(pretrained: bool = False, **given: object) -> object:
        if given.pop("pretrained_cfg_overlay", None):
            raise NotImplementedError
        names = ("pretrained_cfg", "cache_dir", "features_only")
        given = {key: value for key, value in given.items() if key not in names}
        model = made(**{**settings, **given})
        model.default_cfg = {"pool_size": (1, 1) if name in MAPS else None}
        return model

    build.__name__, build.__module__ = name, __name__
    timm.models.register_model(build)


for _name, (_class, _settings) in {**TOKENS, **MAPS}.items():
    _registered(_name, _class, _settings)

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
OWN = {"image_size": SIDE, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8}
"""A ViT of open_clip's own."""


def configurations() -> dict[str, dict[str, object]]:
    """Configurations of open_clip, by name: D is 24, images have 32 pixels, those of three convolutional towers 64."""
    found: dict[str, dict[str, object]] = {
        name: {
            "embed_dim": 24,
            "custom_text": True,
            "init_logit_bias": -10,
            "vision_cfg": {
                "image_size": 2 * SIDE if name in ("tiny_convnext", "tiny_fastvit") else SIDE,
                "timm_model_name": name,
                "timm_pool": pool,
                "timm_proj": "linear" if name in LINEAR else None,
            },
            "text_cfg": TEXT,
        }
        for name, pool in POOLS.items()
    }
    plain = {"embed_dim": 24, "text_cfg": TEXT}
    found["tiny_vit"] = {**plain, "vision_cfg": OWN}
    found["tiny_clipa"] = {**plain, "vision_cfg": {**OWN, "no_ln_pre": True, "pool_type": "avg"}}
    stages = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
    found["tiny_resnet"] = {**plain, "vision_cfg": {**stages, "head_width": 64}}
    pooled = {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    found["tiny_coca"] = {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": {**OWN, **pooled},
        "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**TEXT, "attn_pooler_heads": 2},
    }
    return found


def register(folder: Path) -> tuple[str, ...]:
    """Make all of them known to open_clip; returns their names."""
    import open_clip

    made = configurations()
    for name, config in made.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    return tuple(made)
