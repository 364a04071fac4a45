"""What the paper measured, to stand beside our rows."""

from __future__ import annotations

from c2s.methods.grid import SCORES

DATASETS = ("voc", "coco-stuff", "context")
INDUCTIVE = {
    "segnext-b": ((89.3, 91.2, 87.4), (42.5, 43.1, 41.9), (57.6, 53.3, 62.8)),
    "setr-b": ((90.7, 92.3, 89.2), (44.8, 43.8, 45.9), (56.3, 52.4, 60.8)),
    "segformer-b4": ((88.7, 91.3, 86.2), (43.9, 43.2, 44.7), (58.0, 52.6, 64.5)),
    "vit-b": ((90.7, 92.1, 89.4), (43.2, 43.6, 42.8), (57.1, 51.9, 63.5)),
}
"""Table I: `SCORES` in per cent on `DATASETS`, by student."""
TRANSDUCTIVE = {
    "segnext-b": ((89.5, 91.0, 88.0), (48.5, 43.7, 54.5), (60.5, 54.0, 68.7)),
    "setr-b": ((92.4, 93.1, 91.7), (51.5, 44.4, 61.3), (58.0, 51.7, 65.9)),
    "segformer-b4": ((89.0, 91.6, 86.6), (50.8, 43.3, 61.4), (60.0, 52.3, 70.3)),
    "vit-b": ((91.0, 92.1, 89.9), (50.1, 43.4, 59.2), (58.1, 52.2, 65.6)),
}
"""Table II: the same with self-training."""


def paper_row(dataset: str, student: str, transductive: bool) -> dict[str, float] | None:
    """`SCORES` of the paper's row in per cent, if it has one."""
    rows = TRANSDUCTIVE if transductive else INDUCTIVE
    if dataset not in DATASETS or student not in rows:
        return None
    figures = rows[student][DATASETS.index(dataset)]
    return dict(zip(SCORES, figures, strict=True))
