"""Grouping blocks (GroupViT, CVPR 2022): patches gather round learnt tokens until a few segments are left.

The layers are those of transformers, under its names, so that its weights load; what a patch is given to, and how
firmly, is here: the published way does not train at every scale.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import GroupViTVisionConfig
from transformers.models.groupvit.modeling_groupvit import (
    GroupViTCrossAttentionLayer,
    GroupViTEncoderLayer,
    GroupViTMixerMLP,
    GroupViTMLP,
)

from c2s.students.grouping import GroupingSettings

FIRST_SCALE = 10.0
"""Of cosines, before training."""


def xavier(module: nn.Module) -> None:
    """Draw the linear layers as MAE does: uniform after Glorot, biases zero.

    transformers draws them from a normal distribution of 0.02 whatever the width.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)


class Assignment(nn.Module):
    """Segments from the patches that are assigned to them: sums of values / (count + 1).

    Args:
        config: width and epsilon.
        how: the assignment.
    """

    def __init__(self, config: GroupViTVisionConfig, how: GroupingSettings) -> None:
        super().__init__()
        width = config.hidden_size
        self.how, self.eps, self.scale = how, config.assign_eps, width**-0.5
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.proj = nn.Linear(width, width), nn.Linear(width, width)
        if how.similarity == "cosine":
            self.log_scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE)))

    def forward(
        self, groups: Float[Tensor, "B m W"], patches: Float[Tensor, "B L W"]
    ) -> tuple[Float[Tensor, "B m W"], Float[Tensor, "B m L"]]:
        """New segments; and the shares of each patch without noise, which add up to 1."""
        query, key = self.q_proj(groups), self.k_proj(patches)
        if self.how.similarity == "cosine":
            cosines = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).mT
            logits = self.log_scale.exp() * cosines
        else:
            logits = self.scale * (query @ key.mT)
        soft = shares(logits, self.how.balance)
        given = soft
        if self.how.hard:
            drawn = shares(logits + _gumbel(logits), self.how.balance) if self.training else soft
            given = _straight_through(drawn)
        means = given / (given.sum(-1, keepdim=True) + self.eps) @ self.v_proj(patches)
        return self.proj(means), soft


def shares(logits: Float[Tensor, "B m L"], steps: int = 0) -> Float[Tensor, "B m L"]:
    """Softmax over the m segments of each patch; each of `steps` first scales all segments to equal sums (Sinkhorn)."""
    for _ in range(steps):
        logits = logits.log_softmax(-1).log_softmax(-2)
    return logits.softmax(-2)


def _gumbel(like: Tensor) -> Tensor:
    return -torch.empty_like(like).exponential_().log()


def _straight_through(soft: Tensor) -> Tensor:
    """One segment for each patch, with the gradient of the shares."""
    best = torch.zeros_like(soft).scatter_(1, soft.argmax(1, keepdim=True), 1.0)
    return best - soft.detach() + soft


class GroupingBlock(nn.Module):
    """Group tokens [B, n, W] look at the patches [B, L, W] and become m segments of them.

    Args:
        config: of the layers.
        tokens, groups: n and m.
        how: the assignment.
    """

    def __init__(
        self, config: GroupViTVisionConfig, tokens: int, groups: int, how: GroupingSettings
    ) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.residual = how.residual
        self.norm_tokens, self.norm_x = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.mlp_inter = GroupViTMixerMLP(config, tokens, width // 2, groups)
        self.norm_post_tokens = nn.LayerNorm(width, eps)
        self.pre_assign_attn = GroupViTCrossAttentionLayer(config)
        self.assign = Assignment(config, how)
        self.norm_new_x = nn.LayerNorm(width, eps)
        self.mlp_channels = GroupViTMLP(config)

    def forward(self, patches: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Segments [B, m, W], and the shares [B, m, L] of the patches."""
        patches = self.norm_x(patches)
        groups = self.norm_post_tokens(self.mlp_inter(self.norm_tokens(tokens)))
        groups = self.pre_assign_attn(groups, patches)
        segments, soft = self.assign(groups, patches)
        if self.residual:
            segments = segments + groups
        return segments + self.mlp_channels(self.norm_new_x(segments)), soft


class Stage(nn.Module):
    """Layers over patches and group tokens, then a grouping block; the last stage has neither tokens nor block.

    Args:
        config: of the layers.
        depth: number of layers.
        tokens, groups: group tokens, and segments that come out of the stage; 0 tokens: it groups nothing.
        before: group tokens of the stage before; 0: it is the first.
        how: the assignment.
    """

    def __init__(
        self,
        config: GroupViTVisionConfig,
        depth: int,
        tokens: int,
        groups: int,
        before: int,
        how: GroupingSettings,
    ) -> None:
        super().__init__()
        width = config.hidden_size
        self.tokens = tokens
        self.layers = nn.ModuleList([GroupViTEncoderLayer(config) for _ in range(depth)])
        if tokens:
            self.group_token = nn.Parameter(torch.zeros(1, tokens, width))
            self.downsample = GroupingBlock(config, tokens, groups, how)
        if tokens and before:
            norm = nn.LayerNorm(width, config.layer_norm_eps)
            mixer = GroupViTMixerMLP(config, before, width // 2, tokens)
            self.group_projector = nn.Sequential(norm, mixer)

    def forward(
        self, patches: Tensor, before: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Segments [B, m, W], group tokens [B, n, W] and shares [B, m, L]; of the last stage the patches alone."""
        if not self.tokens:
            return self._layers(patches), None, None
        tokens = self.group_token.expand(len(patches), -1, -1)
        if before is not None:
            tokens = tokens + self.group_projector(before)
        every = self._layers(torch.cat([patches, tokens], 1))
        patches, tokens = every[:, : -self.tokens], every[:, -self.tokens :]
        segments, soft = self.downsample(patches, tokens)
        return segments, tokens, soft

    def _layers(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, None)
        return x


class GroupingHead(nn.Module):
    """Stages, one after the other.

    Args:
        config: `depths`, `num_group_tokens` and `num_output_groups` of the stages, and the layers' sizes.
        how: the assignment.
    """

    def __init__(self, config: GroupViTVisionConfig, how: GroupingSettings) -> None:
        super().__init__()
        tokens, groups = config.num_group_tokens, config.num_output_groups
        before = [0, *groups[:-1]]
        self.stages = nn.ModuleList(
            [
                Stage(config, *sizes, how)
                for sizes in zip(config.depths, tokens, groups, before, strict=True)
            ]
        )
        self._initialise()

    def _initialise(self) -> None:
        """Linear layers as in the encoder; the first group tokens from a normal distribution of 0.02: with tokens of
        zero all groups would start equal, those of later stages have the projected ones added."""
        xavier(self)
        nn.init.trunc_normal_(self.stages[0].group_token, std=0.02)  # type: ignore[arg-type]

    def forward(
        self, patches: Float[Tensor, "B L W"]
    ) -> tuple[Float[Tensor, "B m W"], Float[Tensor, "B m L"]]:
        """Segments, and the share of every patch that each has: the product of the stages' shares."""
        tokens: Tensor | None = None
        maps: Tensor | None = None
        for stage in self.stages:
            patches, tokens, soft = stage(patches, tokens)
            if soft is not None:
                maps = soft if maps is None else soft @ maps
        assert maps is not None
        return patches, maps
