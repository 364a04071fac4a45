"""Invariant: every switch and reading of the paper is a value here, never a fork of the code."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from c2s.methods.zeroseg.losses import Distance
from c2s.students.grouping import GroupingSettings


class DecoderSettings(BaseModel):
    """Sizes of MAE's decoder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: int = Field(default=8, ge=1)
    width: int = Field(default=512, ge=4)
    heads: int = Field(default=16, ge=1)


class ZeroSegSettings(BaseModel):
    """ZeroSeg. The defaults are the full method as printed (last row of Table 4).

    Weights of the losses are unpublished, and 1 here. What the paper does not have is off: reverse, locate, patches,
    center, regions as a source.
    """

    source: Literal["cells", "regions"] = Field(
        default="cells",
        description="what segments are distilled from beside the image: cells of grids, or the regions that "
        "clustering finds in a cache without seen classes",
    )
    scales: tuple[int, ...] | None = Field(
        default=None, description="grids of the cache that count, Table 3; default: all"
    )
    mask_ratio: float = Field(
        default=0.6, ge=0, le=0.8, description="share of the patches that are hidden, Table 5"
    )
    reconstruction: float = Field(default=1.0, ge=0, description="weight of the hidden pixels")
    image: float = Field(default=1.0, ge=0, description="weight of the image's own feature z")
    multiscale: bool = Field(
        default=True, description="z is distilled from the parts as well as from the whole, Table 4"
    )
    match: float = Field(
        default=1.0, ge=0, description="weight of the matching loss, Eq. 1: segment to nearest part"
    )
    reverse: float = Field(default=0.0, ge=0, description="weight of: part to nearest segment")
    locate: float = Field(
        default=0.0,
        ge=0,
        description="weight of: part to the segments that lie in it, each by its share of the part",
    )
    patches: float = Field(
        default=0.0, ge=0, description="weight of: part to the mean of the encoder's patches in it"
    )
    center: bool = Field(default=False, description="the mean of all tokens is taken off each")
    distance: Distance = Field(default="l1", description="of two tokens")
    reduction: Literal["mean", "sum"] = Field(
        default="mean", description="distance=l1: over the channels"
    )
    normalize: bool = Field(default=False, description="distance=l1: of tokens of unit norm")
    grouping: GroupingSettings | None = Field(
        default=None, description="how patches are grouped; default: as suits the student"
    )
    decoder: DecoderSettings = DecoderSettings()
