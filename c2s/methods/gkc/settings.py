"""Invariant: what paper and code leave open, or say differently, is a setting; `paper` and `code` are recipes."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from c2s.methods.gkc.distillation import Distance, Distillation
from c2s.methods.gkc.diversification import How, Sampling


class Synonyms(BaseModel):
    """Text diversification (Sec. 3.2)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    how: How = Field(
        default="random",
        description="a word of its class drawn for each segment, or the logits of all words averaged or maximised "
        "(Table 7a); off: class names alone",
    )
    sampling: Sampling = Field(
        default="threshold",
        description="how=random: each word with a score above the threshold alike, as the code does, or each with "
        "its score for probability, as the paper says",
    )
    threshold: float = Field(default=0.1, ge=0, lt=1, description="of the scores of Eq. 1")
    scale: float | None = Field(
        default=None,
        gt=0,
        description="of the cosines in Eq. 1; default: the teacher's logit scale",
    )


class Grounding(BaseModel):
    """What of captions and images the grounding looks at; the shares are the code's."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    dropped: float = Field(default=0.25, ge=0, lt=1, description="share of a caption's words")
    words: int = Field(default=5, ge=1, description="of the others at most")
    regions: int = Field(default=25, ge=1, description="matched queries of an image at most")


class Weights(BaseModel):
    """Weights of the losses; printed: 5, 5, 2, 2 and 2."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    bce: float = Field(default=5.0, ge=0)
    dice: float = Field(default=5.0, ge=0)
    ce: float = Field(default=2.0, ge=0)
    distillation: float = Field(default=2.0, ge=0)
    grounding: float = Field(
        default=0.0, ge=0, description="of captions in the regions of their images; printed: 2"
    )
    contrast: float = Field(
        default=0.0,
        ge=0,
        description="of a term that is not the paper's: a query tells its segment's token from all of the batch",
    )


class GKCSettings(BaseModel):
    """GKC. The defaults are the full method (last row of Table 4), without its grounding on captions, which few data
    sets have."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    tokens: Literal["segments", "regions"] = Field(
        default="segments",
        description="of annotated segments, cut from the image; or those of the regions of a view in a cache for C2S",
    )
    latent: Literal["none", "regions", "classes"] = Field(
        default="none",
        description="C2S's regions of no annotated class are segments, too: with masks and tokens, without a class; "
        "queries that answer for them are not taught that nothing is there; classes: and each is a class of its image, "
        "whose text is its token",
    )
    frames: int = Field(
        default=1,
        ge=1,
        description="consecutive frames of a clip that share their queries: a segment is a thing in all of them "
        "(Cheng et al., 2021)",
    )
    teacher_token: Literal["spatial", "global"] = Field(default="spatial", description="Table 6")
    student_token: Literal["prior", "post"] = Field(
        default="prior",
        description="of a query, before or after the projection to the text, Table 6",
    )
    distillation: Distillation = Field(default="text", description="Table 5")
    distance: Distance = Field(
        default="squared", description="as in the code; euclidean: Eq. 3 as it is printed"
    )
    synonyms: Synonyms = Synonyms()
    grounding: Grounding = Grounding()
    region_dropout: float = Field(
        default=0.5, ge=0, lt=1, description="share of matched segments without a class loss; code"
    )
    plain_weight: float = Field(
        default=0.0, ge=0, description="of a second class loss, with the class names; code: 2"
    )
    nothing_weight: float = Field(default=0.1, ge=0, description="of no object in the class loss")
    points: int = Field(
        default=12_544, ge=0, description="of a mask that losses and matching look at; 0: all cells"
    )
    oversample: float = Field(default=3.0, ge=1, description="points looked at for each one")
    important: float = Field(default=0.75, ge=0, le=1, description="share of uncertain points")
    weights: Weights = Weights()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.tokens == "regions" and self.teacher_token != "global":
            raise ValueError("tokens=regions: regions have global tokens; set teacher_token=global")
        if self.frames > 1 and self.latent != "none":
            raise ValueError(
                f"latent={self.latent}: nothing says which latent regions of {self.frames} frames are one thing; set "
                "latent=none or frames=1"
            )
        return self
