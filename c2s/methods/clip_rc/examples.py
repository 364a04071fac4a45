"""Invariant: CLIP-RC reads images and label maps of a cache; nothing of unseen classes unless it is transductive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from c2s.methods.batch import Batch
from c2s.methods.examples import (
    IGNORED,
    PIXELS,
    CutView,
    TeacherOutput,
    TrainingExample,
    batch_fields,
    stacked,
    unseen_pixels,
    view_fields,
)


@dataclass(frozen=True, kw_only=True)
class LabelExample(TrainingExample):
    """One view in numpy; fields as in `LabelBatch`, without the batch axis."""

    labels: NDArray[np.uint8]
    unseen: NDArray[np.bool_] | None = None


@dataclass(frozen=True, kw_only=True)
class LabelBatch(Batch):
    """Views of B images with their label maps.

    Attributes:
        labels: int64 [B, S, S], ids of seen classes; 255 where nothing is annotated, padding included.
        unseen: bool [B, S, S], pixels of unseen classes, whichever. Only in a self-training.
    """

    labels: Tensor
    unseen: Tensor | None = None


class LabelExamples:
    """What CLIP-RC learns from a view: its label map.

    Args:
        transductive: also read which pixels the data set itself ignores, which tells pixels of unseen classes from
            pixels of none.
    """

    def __init__(self, transductive: bool = False) -> None:
        self.teacher_paths: frozenset[str] = frozenset()
        self.paths = PIXELS | ({IGNORED} if transductive else set())
        self.pixel_bytes = 5 if transductive else 4

    def example(self, view: CutView, teacher: TeacherOutput) -> LabelExample:
        """The teacher has no part in it."""
        return LabelExample(
            **view_fields(view), labels=view.crop.labels, unseen=unseen_pixels(view)
        )

    def collate(self, examples: Sequence[LabelExample]) -> LabelBatch:
        """Stack at least one."""
        unseen = [e.unseen for e in examples if e.unseen is not None]
        return LabelBatch(
            **batch_fields(examples),
            labels=stacked([e.labels for e in examples], np.int64),
            unseen=torch.from_numpy(np.stack(unseen)) if unseen else None,
        )
