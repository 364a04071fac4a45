"""The per-class table for a terminal."""

from __future__ import annotations

import math

from rich.console import Group
from rich.table import Table

from c2s.evaluation.evaluate import EvalResult


def result_table(result: EvalResult) -> Group:
    """Summary and IoU per class in per cent, unseen classes marked; "-" where nothing was
    measured."""
    m = result.metrics
    summary = Table(title=f"{result.images} images")
    for name in ("hIoU", "sIoU", "uIoU", "pAcc"):
        summary.add_column(name, justify="right")
    summary.add_row(*(_text(v) for v in (m.hIoU, m.sIoU, m.uIoU, m.pAcc)))
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
