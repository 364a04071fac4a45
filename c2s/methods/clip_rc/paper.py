"""What the paper measured, to stand beside our rows."""

from __future__ import annotations

from c2s.methods.grid import SCORES

INDUCTIVE = {
    "voc": (88.4, 92.8, 84.4),
    "context-bg": (51.9, 47.5, 57.3),
    "coco-stuff": (41.2, 40.9, 41.6),
}
"""Table 1: `SCORES` in per cent; Context with its background class."""
TRANSDUCTIVE = {
    "voc": (93.0, 93.9, 92.2),
    "context-bg": (55.1, 48.1, 64.5),
    "coco-stuff": (49.7, 42.0, 60.8),
}
"""Table 2: the same with self-training."""


def paper_row(dataset: str, transductive: bool) -> dict[str, float] | None:
    """`SCORES` of the paper's row in per cent, if it has one."""
    row = (TRANSDUCTIVE if transductive else INDUCTIVE).get(dataset)
    return None if row is None else dict(zip(SCORES, row, strict=True))
