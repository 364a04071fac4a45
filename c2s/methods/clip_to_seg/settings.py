"""Invariant: every switch and reading of the paper is a value here, never a fork of the code."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from c2s.methods.clip_to_seg.global_distillation import (
    Aggregation,
    Distillation,
    GlobalNegatives,
)
from c2s.methods.clip_to_seg.latent_embedding import Calibration, Generator
from c2s.methods.clip_to_seg.local_distillation import Negatives, Reduction, Targets


class LossWeights(BaseModel):
    """Weights of Eq. 8 (global_distillation, local, pixel) and of Eq. 7 (focal, dice, ce); printed: 1.

    The ZegCLIP family, where focal and dice come from, weighs them 100 and 1. `dense_distillation` and
    `cell_distillation` are of terms that the paper does not have, distillation of the cached dense features and of the
    tokens of cells; 0: these are not even read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    global_distillation: float = Field(default=1.0, ge=0)
    local_distillation: float = Field(default=1.0, ge=0)
    pixel: float = Field(default=1.0, ge=0)
    focal: float = Field(default=1.0, ge=0)
    dice: float = Field(default=1.0, ge=0)
    ce: float = Field(default=1.0, ge=0)
    dense_distillation: float = Field(default=0.0, ge=0)
    cell_distillation: float = Field(default=0.0, ge=0)


class ClipToSegSettings(BaseModel):
    """CLIP-to-Seg distillation. The defaults are the full method (last row of Table IV).

    Table IV: baseline = global_distillation, local and latent off; + latent = latent on; + distillation =
    global_distillation and local on; both = all on. tau, alpha and beta are unpublished: 0.07 is CLIP's own
    temperature at initialisation and alpha = beta = 1 / 0.07 gives the pixel loss the same one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    global_distillation: bool = Field(default=True, description="global distillation, Eq. 4")
    local_distillation: bool = Field(default=True, description="local distillation, Eq. 6")
    latent_embedding: bool = Field(
        default=True, description="latent embeddings; off: latent pixels have no pixel loss"
    )
    distillation: Distillation = Field(default="infonce", description="Table VI")
    tau: float = Field(default=0.07, gt=0, description="temperature of Eq. 4 and 6")
    normalize: bool = Field(
        default=True, description="InfoNCE on cosines; false: on the printed dot products"
    )
    aggregation: Aggregation = Field(default="attention", description="F_g, Table XI")
    residual_scale: float = Field(
        default=0.1, gt=0, description="weight of the correction in distillation=residual"
    )
    bank_size: int = Field(
        default=24,
        ge=0,
        le=1 << 16,
        description="CLS token bank (24 in the text, 6 best in Table IX); 0: no bank, the negatives are "
        "the other images of the batch (with none at all Eq. 4 would be constant)",
    )
    global_negatives: GlobalNegatives = Field(
        default="bank",
        description="of Eq. 4: tokens of earlier iterations, or also those of the other images of "
        "the batch",
    )
    local_reduction: Reduction = Field(
        default="sum",
        description="over the regions of an image; printed: sum; area: mean weighted by their pixels",
    )
    local_negatives: Negatives = Field(
        default="image", description="of Eq. 6: regions of the image, or of the whole batch"
    )
    same_class: float = Field(
        default=1.0,
        ge=-1,
        le=1,
        description="local_negatives=batch: regions of other images whose CLS token has a cosine above "
        "this to the own one are taken for the same class and left out; 1 leaves out only the same "
        "seen class",
    )
    local_targets: Targets = Field(
        default="own",
        description="of Eq. 6: the region's own token, or the teacher's softmax over all of them",
    )
    cell_scales: tuple[int, ...] | None = Field(
        default=None,
        description="weights.cell_distillation: grids whose cells are distilled; none: all of the cache",
    )
    text_diversification: bool = Field(
        default=False,
        description="a seen class's text in the pixel loss is one of its words (stage `words`), drawn for each image "
        "by how well they suit its region (Eq. 1 of GKC)",
    )
    generator: Generator = Field(
        default="transformer", description="of latent embeddings, Table VIII"
    )
    calibration: Calibration = Field(
        default="both", description="memory of the transformer, Table VII"
    )
    heads: int = Field(default=8, gt=0, description="attention heads of the transformer")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout of the transformer")
    alpha: float = Field(default=1 / 0.07, gt=0, description="scale of the seen scores")
    beta: float = Field(default=1 / 0.07, gt=0, description="scale of the latent scores")
    normalize_seen: bool = Field(
        default=True, description="unit-norm F in alpha F^T A_s; false as printed"
    )
    supervision: Literal["image", "features"] = Field(
        default="image",
        description="resolution of the pixel loss: scores brought up, or mask brought down (a "
        "sixteenth of the work at features of 1/4)",
    )
    confidence: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="self-training: probability that an unseen class needs to become a pixel's label; "
        "0 labels every pixel without a seen label, as the ZegCLIP family does",
    )
    weights: LossWeights = LossWeights()
