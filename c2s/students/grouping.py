"""Students that cut an image into segments and name these, as GroupViT and ZeroSeg do."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from c2s.students.base import Student

FINER = 4
"""Pixels of a patch's side in the map of best segments."""


class GroupingSettings(BaseModel):
    """How patches are given to segments, and segments to pixels. The defaults are as published, but for the width of
    the head, which is not."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    hard: bool = Field(
        default=True,
        description="a patch is of one segment, chosen in training with Gumbel noise and straight through; false: it "
        "is shared",
    )
    similarity: Literal["dot", "cosine"] = Field(
        default="dot",
        description="of patch and segment: q.k / sqrt(width), or a cosine of learnt scale",
    )
    residual: bool = Field(
        default=True, description="a segment keeps its group token beside what is assigned to it"
    )
    balance: int = Field(
        default=0,
        ge=0,
        le=20,
        description="Sinkhorn steps that give all segments of an image equal shares",
    )
    readout: Literal["hard", "soft"] = Field(
        default="hard",
        description="a pixel has the class of its best segment, or the mean over all of them",
    )
    width: int | None = Field(
        default=None,
        ge=1,
        description="of the head; default: the encoder's, and a layer between if another",
    )


@dataclass(frozen=True)
class Size:
    """Side of training images and patches in pixels; width, layers and heads of the encoder; layers, group tokens and
    segments of each stage of the head."""

    image: int
    patch: int
    width: int
    layers: int
    heads: int
    depths: tuple[int, ...]
    tokens: tuple[int, ...]
    groups: tuple[int, ...]
    how: GroupingSettings = GroupingSettings()  # noqa: RUF009 it is frozen


SOFT = GroupingSettings(hard=False, similarity="cosine", residual=False, readout="soft")
SIZES = {
    "zeroseg-b": Size(224, 16, 768, 12, 12, (2, 2, 1), (32, 8, 0), (32, 8, 8)),
    "zeroseg-shapes": Size(64, 8, 128, 4, 4, (1, 1), (8, 0), (8, 8), SOFT),
}


class Grouped(NamedTuple):
    """What a student makes of images, of which it has seen L' of L patches.

    `segments` float [B, m, D], in the teacher's space; `tokens` float [B, m, W'], what they are projected from, as wide
    as the head; `maps` float [B, m, L'], shares of the seen patches, which add up to 1; `patches` float [B, 1 + L', W],
    the encoder's, its class token first; `kept` int64 [B, L'], which patches these are; `restore` int64 [B, L], where
    each patch stands among those seen and then those hidden.
    """

    segments: Tensor
    tokens: Tensor
    maps: Tensor
    patches: Tensor
    kept: Tensor
    restore: Tensor


class GroupingStudent(Student):
    """Cuts an image into m segments and names these.

    A segment's scores are softmax(scale cos(g, text)) over the classes it is asked for, so they are
    probabilities; a pixel has those of its best segment, or the mean under its shares.

    Attributes:
        how: of the grouping.
        scale: of the teacher's cosines.
        width: W, of the encoder.
        patch: side of a patch in pixels.
        grid: patches along a side of a training image, for which the positions were made.
        segments: m.
    """

    how: GroupingSettings
    scale: float
    width: int
    patch: int
    grid: int
    segments: int

    @abstractmethod
    def forward(
        self, images: Tensor, mask_ratio: float = 0.0, noise: Tensor | None = None
    ) -> Grouped:
        """Group the patches of images; see `Grouped`.

        Args:
            images: float [B, 3, H, W], normalised.
            mask_ratio: share of the patches of each image that are hidden, at random; 0: all are seen, in their
                order.
            noise: float [B, L], in place of a random draw: the patches of the smallest values are seen.
        """

    def cut(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Segments float [B, m, D] of images as for `classify`, and each one's share of every patch, [B, m, h, w]."""
        found = self(images)
        height = -(-images.shape[-2] // self.patch)
        return found.segments, rearrange(found.maps, "b m (h w) -> b m h w", h=height)

    def classify(self, images: Tensor, text: Tensor) -> Tensor:
        """Probabilities of the classes; see `Student.classify`."""
        segments, maps = self.cut(images)
        cosines = F.normalize(segments.float(), dim=-1) @ text.T
        named = (self.scale * cosines).softmax(-1)  # [B, m, K]
        maps = maps.float()
        if self.how.readout == "soft":
            return torch.einsum("bmhw,bmk->bkhw", maps, named)
        fine = F.interpolate(maps, scale_factor=self.patch / FINER, mode="bilinear")
        best = fine.argmax(1).flatten(1)  # [B, h w]
        found = named.mT.gather(2, best[:, None].expand(-1, len(text), -1))
        return rearrange(found, "b k (h w) -> b k h w", h=fine.shape[2])
