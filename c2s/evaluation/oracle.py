"""What a grouping is worth, whatever its segments are called: each gets the name that fits it best."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from c2s.students.grouping import GroupingStudent
from c2s_cache.label_map import LabelMap, ignored_id


class SegmentScores(nn.Module):
    """A student's segments in place of classes: the share of a place that each has."""

    def __init__(self, student: GroupingStudent) -> None:
        super().__init__()
        self.student, self.mean, self.std = student, student.mean, student.std

    def forward(self, images: Tensor) -> Tensor:
        """Shares float32 [B, m, h, w] of normalised images [B, 3, H, W]."""
        return self.student.cut(images)[1].float()


def oracle_names(segments: NDArray[np.integer], labels: LabelMap) -> NDArray[np.int64]:
    """Commonest annotated class of each segment, 0 of one without an annotated pixel, at its pixels: int64 [H, W].

    Args:
        segments: integers [H, W], segment of each pixel.
        labels: class ids [H, W], the type's largest value = not annotated.
    """
    counted = labels != ignored_id(labels.dtype)
    count = int(segments.max()) + 1
    classes = int(labels[counted].max(initial=0)) + 1
    pairs = segments[counted].astype(np.int64) * classes + labels[counted]
    votes = np.bincount(pairs, minlength=count * classes).reshape(count, classes)
    named: NDArray[np.int64] = votes.argmax(1)[segments]
    return named
