"""What each step does on Shapes, where the printed losses collapse; and the paper's ablations, Tables 3 to 5.

The paper's figures are mIoU on PASCAL VOC 2012 with background (ImageNet-1k, ViT-B, CLIP ViT-L/14).
"""

from __future__ import annotations

from typing import Any

from c2s.methods.grid import Grid, Row

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
WITHOUT_LABELS = {"stages": ["views", "global_cls", "masks", "regions", "text"]}
"""A build of label-free regions, whatever labels the cache beside it has."""


def _row(name: str, build: dict[str, Any] | None = None, **method: Any) -> Row:
    return Row(name=name, train={"method": method}, build=build or {})


TABLES: dict[str, Grid] = {
    "shapes": Grid(
        name="zeroseg-shapes",
        title="ZeroSeg: what keeps the segments apart",
        rows=(
            _row("as printed", **PRINTED),
            _row(
                "+ reverse, balance",
                **PRINTED | {"reverse": 1.0, "grouping": SOFT | {"balance": 3}},
            ),
            _row("location and patches in place of matching", **LOCATED),
            _row("regions in place of cells", WITHOUT_LABELS, **LOCATED | {"source": "regions"}),
        ),
        note="None of them reads a label. The printed losses collapse to one segment an image.",
    ),
    "3": Grid(
        name="zeroseg-table-3",
        title="Table 3: grids of the multi-scale views",
        rows=(
            _row("1", scales=[1]),
            _row("1, 2", scales=[1, 2]),
            _row("1, 3", scales=[1, 3]),
            _row("1, 4", scales=[1, 4]),
            _row("1, 2, 3, 4", scales=[1, 2, 3, 4]),
        ),
        note="Paper, mIoU on VOC: 21.1, 23.7, 40.2, 32.4, 40.8.",
    ),
    "4": Grid(
        name="zeroseg-table-4",
        title="Table 4: losses",
        rows=(
            _row("base", multiscale=False, match=0.0),
            _row("+ multi-scale", multiscale=True, match=0.0),
            _row("+ matching", multiscale=False, match=1.0),
            _row("both", multiscale=True, match=1.0),
        ),
        note="Paper, mIoU on VOC: 21.1, 28.5, 38.6, 40.8.",
    ),
    "5": Grid(
        name="zeroseg-table-5",
        title="Table 5: share of hidden patches",
        rows=tuple(
            _row(f"{ratio:g}", mask_ratio=ratio) for ratio in (0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
        ),
        note="Paper, mIoU on VOC: 35.6, 37.6, 38.7, 40.4, 39.8, 40.8, 33.3, 32.8; faster by 0, 15, 19, 26, 32, 36, "
        "39, 43 %.",
    ),
}
