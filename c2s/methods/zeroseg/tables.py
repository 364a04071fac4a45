"""What each step does on Shapes, where the printed losses collapse; and the paper's ablations, Tables 3 to 5.

The paper's figures are mIoU on PASCAL VOC 2012 with background by threshold.
"""

from __future__ import annotations

from typing import Any

from c2s.methods.grid import ACROSS, Grid, PaperRun, Row, row, table

PAPER = PaperRun(
    dataset="voc-bg",
    student="zeroseg-b",
    iterations=25_000,
    batch_size=4096,
    weights="trained on ImageNet-1k with CLIP ViT-L/14",
    given=True,
)
COLUMNS = (ACROSS,)
PRINTED: dict[str, Any] = {
    "source": "cells",
    "mask_ratio": 0.6,
    "match": 1.0,
    "reverse": 0.0,
    "locate": 0.0,
    "patches": 0.0,
    "center": False,
    "distance": "l1",
    "grouping": {
        **{"hard": True, "similarity": "dot", "residual": True, "balance": 0},
        "readout": "hard",
    },
}
SOFT = {"hard": False, "similarity": "cosine", "residual": False, "readout": "soft"}
LOCATED: dict[str, Any] = {
    "source": "cells",
    "mask_ratio": 0.4,
    "match": 0.0,
    "reverse": 0.0,
    "locate": 1.0,
    "patches": 1.0,
    "center": True,
    "distance": "cosine",
    "grouping": SOFT | {"balance": 0},
}
MASKED = {0: 35.6, 0.2: 37.6, 0.3: 38.7, 0.4: 40.4, 0.5: 39.8, 0.6: 40.8, 0.7: 33.3, 0.8: 32.8}
"""Paper's figure by share of hidden patches."""


def _table(number: str, *rest: Any, **more: Any) -> Grid:
    name = f"zeroseg-table-{number}"
    return table(number, *rest, paper=PAPER, columns=COLUMNS, name=name, **more)


def _row(name: str, paper: float | None = None, **method: Any) -> Row:
    return row(name, None if paper is None else (paper,), **method)


TABLES: dict[str, Grid] = {
    "shapes": Grid(
        name="zeroseg-shapes",
        columns=COLUMNS,
        title="ZeroSeg: what keeps the segments apart",
        rows=(
            _row("as printed", **PRINTED),
            _row(
                "+ reverse, balance",
                **PRINTED | {"reverse": 1.0, "grouping": SOFT | {"balance": 3}},
            ),
            _row("location and patches in place of matching", **LOCATED),
            _row(
                "+ a head half as wide",
                **LOCATED | {"grouping": LOCATED["grouping"] | {"width": 64}},
            ),
        ),
        note="None of them reads a label. The printed losses collapse to one token.",
    ),
    "3": _table(
        "3",
        "grids of the multi-scale views",
        _row("1", 21.1, scales=[1]),
        _row("1, 2", 23.7, scales=[1, 2]),
        _row("1, 3", 40.2, scales=[1, 3]),
        _row("1, 4", 32.4, scales=[1, 4]),
        _row("1, 2, 3, 4", 40.8, scales=[1, 2, 3, 4]),
    ),
    "4": _table(
        "4",
        "losses",
        _row("base", 21.1, multiscale=False, match=0.0),
        _row("+ multi-scale", 28.5, multiscale=True, match=0.0),
        _row("+ matching", 38.6, multiscale=False, match=1.0),
        _row("both", 40.8, multiscale=True, match=1.0),
    ),
    "5": _table(
        "5",
        "share of hidden patches",
        *(_row(f"{ratio:g}", paper, mask_ratio=ratio) for ratio, paper in MASKED.items()),
        note="The paper's training is faster by 0, 15, 19, 26, 32, 36, 39, 43 %.",
    ),
}
