"""The per-class table for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rich.console import Group
from rich.table import Table

from c2s.evaluation.evaluate import EvalResult


def result_table(
    result: EvalResult, setting: str = "inductive", paper: Mapping[str, float] | None = None
) -> Group:
    """Summary and IoU per class in per cent, unseen classes marked; "-" where nothing was
    measured.

    Args:
        result: of an evaluation.
        setting: marks our row: inductive, transductive or cross-dataset.
        paper: hIoU, sIoU, uIoU of the paper's row, if it has one.
    """
    m = result.metrics
    summary = Table(title=f"{result.images} images")
    summary.add_column("")
    for name in ("hIoU", "sIoU", "uIoU", "mIoU", "pAcc"):
        summary.add_column(name, justify="right")
    figures = (m.hIoU, m.sIoU, m.uIoU, m.mIoU, m.pAcc)
    summary.add_row(f"ours, {setting}", *(_text(v) for v in figures))
    if paper is not None:
        theirs = [f"{paper[k]:.1f}" for k in ("hIoU", "sIoU", "uIoU")]
        summary.add_row(f"paper, {setting}", *theirs, "-", "-")
    classes = Table("id", "class", title="IoU per class")
    classes.add_column("IoU", justify="right")
    classes.add_column("")
    for i, name in enumerate(result.classes):
        unseen = i in result.unseen
        mark = "unseen" if unseen else ""
        classes.add_row(
            str(i), name, _text(float(m.iou[i])), mark, style="bold" if unseen else None
        )
    return Group(classes, summary)


def _text(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"
