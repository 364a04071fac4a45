"""Students that answer with masks of queries and an embedding of each, as Mask2Former does."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from c2s.students.base import Student

NOTHING_STD = 512**-0.5
"""Of the embedding of no object at its beginning: that of a text tower of width 512."""
LOGIT_SCALE = math.log(1 / 0.07)
"""CLIP's at its beginning."""


@dataclass(frozen=True)
class Queries:
    """What Q queries say of B images, set after set: of the learned queries first, then after each decoder layer.

    Of clips, whose frames share their queries, B is the number of clips.

    Attributes:
        masks: logits [B, Q, h, w] each; of clips of T frames [B, Q, T h, w], frame below frame.
        shared: [B, Q, C] each, before the projection into the space of the text ("prior").
        embeddings: [B, Q, D] each, in the space of the text ("post").
        nothing: [D], embedding of no object.
        scale: of cosines.
    """

    masks: tuple[Tensor, ...]
    shared: tuple[Tensor, ...]
    embeddings: tuple[Tensor, ...]
    nothing: Tensor
    scale: Tensor

    def logits(self, embeddings: Tensor, text: Tensor) -> Tensor:
        """Class logits of queries.

        Args:
            embeddings: [..., D].
            text: float32 [K, D], unit norm.

        Returns:
            float32 [..., K + 1]; the last is that of no object.
        """
        every = torch.cat([text, F.normalize(self.nothing, dim=0)[None]])
        scores: Tensor = self.scale * F.normalize(embeddings.float(), dim=-1) @ every.T
        return scores


class QueryStudent(Student):
    """Masks of queries, each with an embedding in the space of the text.

    A query of normalised state n has u = W_c n + b, shared by all sets, and v_l = W_l ReLU(u) + b_l, with one
    projection a set. Its class logits are exp(s) cos(v, text), where the text has a learned embedding of no object
    beside those of the classes.

    Args:
        dim: D, width of the text embeddings.
        width: C, of the states of the queries.
        sets: of queries that are supervised: one more than decoder layers.
    """

    def __init__(self, dim: int, width: int, sets: int) -> None:
        super().__init__()
        self.dim, self.width, self.sets = dim, width, sets
        self.shared = nn.Linear(width, width)
        self.projections = nn.ModuleList(nn.Linear(width, dim) for _ in range(sets))
        self.nothing = nn.Parameter(torch.randn(dim) * NOTHING_STD)
        self.scale = nn.Parameter(torch.tensor(LOGIT_SCALE))

    @abstractmethod
    def decode(
        self, images: Tensor, frames: int = 1
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Mask logits and normalised states [B, Q, C] of every set, as in `Queries`.

        Args:
            images: as in `classify`; of clips, frame after frame.
            frames: T, of a clip; 1: images alone.
        """

    def forward(self, images: Tensor, frames: int = 1) -> Queries:
        """Masks and embeddings of the queries of every set; see `decode`."""
        masks, states = self.decode(images, frames)
        shared = tuple(self.shared(state) for state in states)
        embeddings = tuple(
            project(F.relu(u)) for project, u in zip(self.projections, shared, strict=True)
        )
        return Queries(masks, shared, embeddings, self.nothing, self.scale.exp())

    def classify(self, images: Tensor, text: Tensor) -> Tensor:
        """Sum over the queries of the last set of class probability times mask; see `Student.classify`."""
        return self._map(self(images), text)

    def classify_clip(self, images: Tensor, text: Tensor) -> Tensor:
        """As `classify`, of the T frames of one clip, [T, 3, H, W]: a query has one class and a mask in every frame.

        The queries look at all frames at once, as in "Mask2Former for Video Instance Segmentation" (Cheng et al.,
        2021), but for a position in time, so that the weights of images serve: T copies of an image get its scores.
        """
        scores = self._map(self(images, len(images)), text)[0]  # [K, T h, w]
        return rearrange(scores, "k (t h) w -> t k h w", t=len(images))

    def _map(self, found: Queries, text: Tensor) -> Tensor:
        classes = found.logits(found.embeddings[-1], text).softmax(-1)[..., :-1]  # [B, Q, K]
        masks = found.masks[-1].float().sigmoid()
        return torch.einsum("bqk,bqhw->bkhw", classes, masks)
