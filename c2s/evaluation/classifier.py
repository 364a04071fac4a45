"""A student and the classes that it is asked for; no CLIP image encoder, no latent classes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from c2s.students.base import FeatureStudent, Student
from c2s.students.query import QueryStudent

MANY = 254
"""Of more classes, what is held of an image may be features in place of scores."""


class Classifier(nn.Module):
    """Scores of K classes, each by one name or several, of which the best counts.

    Args:
        student: what is asked.
        text: float32 [M, D], embeddings of all names, class after class, unit norm.
        counts: names per class, M in all; default: one each.

    Attributes:
        classes: K.
        late: whether the student has fewer features than scores: `encode` then gives its features, and
            `score` the scores of a few classes, so that all of them are never held together.
        mean, std: of the inputs, the student's.
    """

    text: Tensor

    def __init__(self, student: Student, text: Tensor, counts: Sequence[int] = ()) -> None:
        super().__init__()
        self.student = student
        self.register_buffer("text", text)
        self.mean, self.std = student.mean, student.std
        self.ends = (0, *accumulate(counts or [1] * len(text)))
        self.classes = len(self.ends) - 1
        self.late = isinstance(student, FeatureStudent) and len(text) > max(MANY, text.shape[1])

    def forward(self, images: Tensor) -> Tensor:
        """Scores float32 [B, K, h, w] of normalised images [B, 3, H, W]."""
        return self._best(self.student.classify(images, self.text), slice(0, self.classes))

    def clip(self, images: Tensor) -> Tensor:
        """As `forward`, of the frames of one clip, which the student looks at together: it is a `QueryStudent`."""
        assert isinstance(self.student, QueryStudent)
        return self._best(self.student.classify_clip(images, self.text), slice(0, self.classes))

    def encode(self, images: Tensor) -> Tensor:
        """Features float32 [B, D, h, w] of unit norm, of normalised images [B, 3, H, W]."""
        return functional.normalize(self.student(images).float(), dim=1).contiguous()

    def score(self, features: Tensor, classes: slice) -> Tensor:
        """Scores float32 [B, k, h, w] of some classes from features of `encode`."""
        rows = self.text[self.ends[classes.start] : self.ends[classes.stop]]
        scores = rows @ features.flatten(2)  # reads the features where they lie, k rows at a time
        return self._best(scores.view(*scores.shape[:2], *features.shape[2:]), classes)

    def _best(self, scores: Tensor, classes: slice) -> Tensor:
        """Of the scores [B, m, h, w] of all names of some classes, the best of each: [B, k, h, w]."""
        ends = self.ends[classes.start : classes.stop + 1]
        if scores.shape[1] == len(ends) - 1:
            return scores
        groups = [scores[:, a - ends[0] : b - ends[0]] for a, b in pairwise(ends)]
        return torch.stack([group.amax(1) for group in groups], 1)
