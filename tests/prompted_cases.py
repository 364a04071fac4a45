"""A small image tower of open_clip's, and students `prompted-clip` that are made of it."""

from __future__ import annotations

import open_clip
import torch
import torch.nn.functional as F

from c2s.students.prompted_clip import PromptedCLIP
from c2s_cache.tower import TowerInfo

DIM = 12
PLAIN = {"prompts": 0, "bridge": 0, "descriptor": "global", "fuse": []}
SMALL = {"prompts": 3, "bridge": 4, "heads": 3, "ffn": 20, "decoder_layers": 2}


def openai_tower(pool="tok", act=torch.nn.GELU):
    """open_clip's own image tower, small, of random weights."""
    torch.manual_seed(0)
    return open_clip.transformer.VisionTransformer(
        image_size=32,
        patch_size=8,
        width=24,
        layers=3,
        heads=3,
        mlp_ratio=2.0,
        output_dim=DIM,
        pool_type=pool,
        act_layer=act,
    ).eval()


def info(visual, activation="gelu"):
    return TowerInfo(
        digest="0" * 64,
        width=24,
        layers=3,
        heads=3,
        mlp=48,
        patch=8,
        image_size=32,
        dim=DIM,
        activation=activation,
        pool=visual.pool_type,
        eps=visual.ln_post.eps,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    )


def student(visual=None, activation="gelu", **settings):
    """A student on that tower, in evaluation."""
    visual = openai_tower() if visual is None else visual
    tower = info(visual, activation)
    torch.manual_seed(1)
    made = PromptedCLIP(DIM, {**SMALL, **settings, "tower": tower}).eval()
    made.load_tower({k: v.numpy() for k, v in visual.state_dict().items()})
    return made


def images(*size, count=2):
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(2))


def words(count=5):
    drawn = torch.randn(count, DIM, generator=torch.Generator().manual_seed(3))
    return F.normalize(drawn, dim=1)
