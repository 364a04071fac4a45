"""Invariant: every figure comes from one int64 confusion matrix over all classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from c2s_cache.label_map import LabelMap, ignored_id


@dataclass(frozen=True)
class Metrics:
    """Generalised zero-shot metrics, as fractions; nan where there was nothing to measure.

    Attributes:
        sIoU: mean IoU of the seen classes; nan if none of them is annotated anywhere.
        uIoU: mean IoU of the unseen classes; nan if none of them is annotated anywhere.
        hIoU: harmonic mean of the two, 2 S U / (S + U); 0 if both are 0, nan if one is nan.
        pAcc: fraction of the annotated pixels that are right.
        mIoU: mean IoU of all classes.
        mAcc: mean over the annotated classes of the fraction of their pixels that are right.
        iou: float64 [N], IoU per class; nan for a class neither annotated nor predicted.
    """

    sIoU: float
    uIoU: float
    hIoU: float
    pAcc: float
    mIoU: float
    mAcc: float
    iou: NDArray[np.float64]


BAND = 2**22
"""Pixels that are counted together."""
METRICS = tuple(field.name for field in fields(Metrics) if field.name != "iou")
"""Names of all figures but those of single classes, in the order in which they are shown."""


class ConfusionMatrix:
    """Counts of (true class, predicted class) over pixels, without those that are not annotated.

    Args:
        num_classes: N.

    Attributes:
        counts: int64 [N, N].
        ignored: pixels that are not annotated.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts: NDArray[np.int64] = np.zeros((num_classes, num_classes), np.int64)
        self.ignored = 0

    def update(self, truth: LabelMap, prediction: NDArray[np.integer]) -> None:
        """Count one image.

        Args:
            truth: uint8 or uint16 [H, W], class ids, the type's largest value = not annotated.
            prediction: integers [H, W] in 0 .. N - 1.

        Raises:
            ValueError: shapes differ, or an id lies outside the classes.
        """
        if truth.shape != prediction.shape:
            raise ValueError(f"truth has shape {truth.shape}, prediction {prediction.shape}")
        rows = max(1, BAND // max(1, truth.shape[1]))
        for top in range(0, len(truth), rows):
            self._count(truth[top : top + rows], prediction[top : top + rows])

    def _count(self, truth: LabelMap, prediction: NDArray[np.integer]) -> None:
        counted = truth != ignored_id(truth.dtype)
        self.ignored += truth.size - int(np.count_nonzero(counted))
        true, predicted = truth[counted].astype(np.int64), prediction[counted].astype(np.int64)
        for what, ids in (("truth", true), ("prediction", predicted)):
            if ids.size and not (ids.min() >= 0 and ids.max() < self.num_classes):
                raise ValueError(f"{what} has ids outside 0..{self.num_classes - 1}")
        pairs, counts = true * self.num_classes + predicted, self.counts.reshape(-1)
        if counts.size <= BAND:
            counts += np.bincount(pairs, minlength=counts.size)
        else:  # no second matrix of so many classes is held
            found, times = np.unique(pairs, return_counts=True)
            counts[found] += times

    def metrics(self, unseen: Sequence[int]) -> Metrics:
        """Figures of everything counted so far.

        IoU of class c = TP / (TP + FP + FN) over annotated pixels. A class with no such pixel at
        all is nan and does not enter the means; one that is predicted but nowhere annotated has 0, as
        in mmsegmentation. Where that is so of every seen, or of every unseen class, there is nothing
        to find, and their mean is nan. Accuracy of class c = TP / (TP + FN), of annotated classes alone.

        Args:
            unseen: ids of the unseen classes.
        """
        hit = np.diag(self.counts).astype(np.float64)
        union = self.counts.sum(0) + self.counts.sum(1) - np.diag(self.counts)
        iou = np.divide(hit, union, out=np.full(self.num_classes, np.nan), where=union > 0)
        is_unseen = np.zeros(self.num_classes, bool)
        is_unseen[list(unseen)] = True
        pixels = self.counts.sum(1)
        annotated = pixels > 0
        accuracy = np.divide(hit, pixels, out=np.full(self.num_classes, np.nan), where=annotated)
        seen_iou, unseen_iou = (
            _mean(iou[group]) if annotated[group].any() else float("nan")
            for group in (~is_unseen, is_unseen)
        )
        total = int(self.counts.sum())
        return Metrics(
            sIoU=seen_iou,
            uIoU=unseen_iou,
            hIoU=harmonic_mean(seen_iou, unseen_iou),
            pAcc=float(hit.sum()) / total if total else float("nan"),
            mIoU=_mean(iou),
            mAcc=_mean(accuracy),
            iou=iou,
        )


def harmonic_mean(seen: float, unseen: float) -> float:
    """2 S U / (S + U); 0 if both are 0, nan if either is nan."""
    if seen + unseen == 0:
        return 0.0
    return 2 * seen * unseen / (seen + unseen)


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
