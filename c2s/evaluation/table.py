"""The per-class table for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rich.console import Group
from rich.table import Table

from c2s.evaluation.confusion import METRICS
from c2s.evaluation.evaluate import EvalResult


def result_table(
    result: EvalResult, setting: str = "inductive", paper: Mapping[str, float] | None = None
) -> Group:
    """Summary at every offset or threshold and IoU per class at the first, in per cent, unseen classes and the best
    one marked; "-" where nothing was measured.

    Args:
        result: of an evaluation.
        setting: marks our row: inductive, transductive or cross-dataset.
        paper: hIoU, sIoU, uIoU of the paper's row, if it has one.
    """
    m = result.metrics
    summary = Table(title=f"{result.images} images")
    summary.add_column("")
    for name in METRICS:
        summary.add_column(name, justify="right", no_wrap=True)
    offsets = result.swept == "seen_offset"
    decides, called = ("hIoU", "offset") if offsets else ("mIoU", "threshold")
    known = (getattr(each, decides) for each in result.sweep.values())
    best = max((value for value in known if not math.isnan(value)), default=None)
    for offset, each in result.sweep.items():
        swept = f", {called} {offset:g}" if len(result.sweep) > 1 else ""
        figures = (_text(getattr(each, name)) for name in METRICS)
        style = "bold" if swept and getattr(each, decides) == best else None
        summary.add_row(f"ours, {setting}{swept}", *figures, style=style)
    if paper is not None:
        theirs = (f"{paper[name]:.1f}" if name in paper else "-" for name in METRICS)
        summary.add_row(f"paper, {setting}", *theirs)
    classes = Table(title="IoU per class")
    classes.add_column("id", no_wrap=True)
    classes.add_column("class")
    classes.add_column("IoU", justify="right", no_wrap=True)
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
