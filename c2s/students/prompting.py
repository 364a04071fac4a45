"""What is left open of a prompted CLIP, as a method's settings and as a run keeps it."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from c2s_cache.tower import TowerInfo

Descriptor = Literal["regional", "bridge", "global"]


class Prompting(BaseModel):
    """Sizes and switches of a prompted CLIP, beside its tower."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompts: int = Field(
        default=10,
        ge=0,
        description="K, trained tokens of every layer; 0: none, nor the norm behind them",
    )
    bridge: int = Field(
        default=16,
        ge=0,
        description="M, tokens of the region-level bridge, a square number; 0: none, nor its attention mask",
    )
    bridge_update: bool = Field(default=False, description="the bridge's tokens are trained")
    descriptor: Descriptor = Field(
        default="regional",
        description="what describes a class: its text times R + G (regional), R (bridge), or G (global)",
    )
    fuse: tuple[Literal["bridge", "cls"], ...] = Field(
        default=("bridge", "cls"),
        description="what joins the patches before the decoder (Eq. 4); []: they stay as they are",
    )
    decoder_layers: int = Field(default=3, ge=1, description="of each stream of the decoder")
    heads: int = Field(default=8, gt=0, description="attention heads of the decoder")
    ffn: int = Field(default=2048, gt=0, description="width of the decoder's MLPs")
    dropout: float = Field(
        default=0.1, ge=0, lt=1, description="of prompts and decoders, while they train"
    )
    first_scores: float | None = Field(
        default=None,
        gt=0,
        description="deviation of the scores that training begins with; none: as the decoder is drawn, the root of D",
    )
    start: Literal["drawn", "tower"] = Field(
        default="drawn",
        description="what stands before the decoder as training begins: layers as drawn, or layers that text and "
        "patches also pass as they are, in the tower's own alignment",
    )
    normalisation: Literal["imagenet", "clip"] = Field(
        default="imagenet",
        description="of the images: ImageNet's, as the ZegCLIP family has it, or the tower's own",
    )

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if math.isqrt(self.bridge) ** 2 != self.bridge:
            raise ValueError(f"bridge={self.bridge} is no square number, such as 1, 4, 16 or 64")
        if len(set(self.fuse)) < len(self.fuse):
            raise ValueError("fuse names one thing twice")
        if not self.bridge and (self.descriptor != "global" or "bridge" in self.fuse):
            raise ValueError(
                "bridge=0 leaves no regions: it needs descriptor=global, and no bridge in fuse"
            )
        if not self.bridge and self.bridge_update:
            raise ValueError("bridge_update has no effect with bridge=0")
        return self


def vit_b(dim: int) -> TowerInfo:
    """The shape of OpenAI's ViT-B/16, of no weights, projected to D."""
    return TowerInfo(
        digest="",
        width=768,
        layers=12,
        heads=12,
        mlp=3072,
        patch=16,
        image_size=224,
        dim=dim,
        activation="quick_gelu",
        pool="tok",
        eps=1e-5,
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    )


class PromptedArchitecture(Prompting):
    """The same with the tower, which decides all other sizes."""

    tower: TowerInfo

    @model_validator(mode="after")
    def _divide(self) -> Self:
        if self.tower.dim % self.heads:
            raise ValueError(f"heads={self.heads} does not divide the width {self.tower.dim}")
        return self
