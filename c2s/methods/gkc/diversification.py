"""Text diversification (Sec. 3.2, Eq. 1): a class is learnt by several words, by chance or all of them together."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from c2s.vocabulary import Vocabulary

How = Literal["off", "random", "average", "maximum"]
Sampling = Literal["threshold", "score"]


class Words(nn.Module):
    """The words of the seen classes, class by class.

    Args:
        words: of every class its names, the bare one first.

    Attributes:
        embeddings: float32 [C, W, D], zero where a class has fewer words.
        there: bool [C, W].
    """

    embeddings: Tensor
    there: Tensor

    def __init__(self, words: Vocabulary) -> None:
        super().__init__()
        most = max(words.counts, default=1)
        table = np.zeros((len(words.counts), most, words.embeddings.shape[1]), np.float32)
        parts = np.split(words.embeddings, np.cumsum(words.counts)[:-1])
        for row, part in zip(table, parts, strict=False):
            row[: len(part)] = part
        there = np.arange(most) < np.array(words.counts, int)[:, None]
        # Both follow from the cache, so they are not part of the checkpoint.
        self.register_buffer("embeddings", torch.from_numpy(table), persistent=False)
        self.register_buffer("there", torch.from_numpy(there), persistent=False)

    def scores(
        self, tokens: Float[Tensor, "M D"], channels: Tensor, scale: float
    ) -> Float[Tensor, "M W"]:
        """How well each word of its class suits a segment (Eq. 1); 0 where there is none.

        Args:
            tokens: the teacher's, of the segments.
            channels: int64 [M], place of each one's class.
            scale: of the cosines.
        """
        cosines = torch.einsum("md,mwd->mw", F.normalize(tokens, dim=-1), self.embeddings[channels])
        held = (scale * cosines).masked_fill(~self.there[channels], -torch.inf)
        return held.softmax(-1)

    def drawn(self, channels: Tensor, chosen: Tensor) -> Float[Tensor, "M D"]:
        """Embeddings of one word for each of M segments."""
        return self.embeddings[channels, chosen]

    def logits(
        self, cosines: Float[Tensor, "... CW"], how: Literal["average", "maximum"]
    ) -> Float[Tensor, "... C"]:
        """Class logits from those of all words, C x W of them (Table 7a)."""
        held = cosines.reshape(*cosines.shape[:-1], *self.there.shape)
        if how == "maximum":
            found: Tensor = held.masked_fill(~self.there, -torch.inf).amax(-1)
            return found
        mean: Tensor = (held * self.there).sum(-1) / self.there.sum(-1)
        return mean


def draw(
    scores: Float[Tensor, "M W"], there: Bool[Tensor, "M W"], sampling: Sampling, threshold: float
) -> Tensor:
    """A word for each of M segments: int64 [M].

    Args:
        scores: that sum to 1 over the words that are there.
        there: which words a segment's class has.
        sampling: "score": with that probability; "threshold": each above it alike, or the best if none is.
        threshold: of the scores.
    """
    if not len(scores):
        return scores.new_zeros(0, dtype=torch.int64)
    weights = scores
    if sampling == "threshold":
        above = (scores > threshold) & there
        best = F.one_hot(scores.argmax(-1), scores.shape[-1]).bool()
        weights = torch.where(above.any(-1, keepdim=True), above, best).float()
    return torch.multinomial(weights, 1)[:, 0]
