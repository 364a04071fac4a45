"""Invariant: every switch and reading of the paper is a value here; those of the model are the student's own."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from c2s.methods.clip_rc.recovery import RecoveryLoss
from c2s.students.prompting import Prompting


class MaskWeights(BaseModel):
    """Weights of the two losses of masks; the paper's alpha is in them. Cross-entropy has no part in it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    ce: ClassVar[float] = 0.0
    focal: float = Field(default=100.0, ge=0)
    dice: float = Field(default=1.0, ge=0)


class RecoveryConfig(BaseModel):
    """The recovery decoder and its loss (Eq. 9 and 10); `weight` is the paper's beta, 0: there is none."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    weight: float = Field(default=2.0, ge=0)
    loss: RecoveryLoss = "l1"
    layers: int = Field(default=1, ge=0, le=12)


class ClipRCSettings(Prompting):
    """CLIP-RC. The defaults are the full method on VOC (last row of Table 5)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    unlabelled: Literal["negative", "ignored"] = Field(
        default="negative",
        description="pixels without a label: negatives of every class, as in the released code, or left out",
    )
    weights: MaskWeights = MaskWeights()
    recovery: RecoveryConfig = RecoveryConfig()
