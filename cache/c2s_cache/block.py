"""Invariant: a block in memory is a run of arrays, and a sample is a view into them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sample:
    """One view of one image, as stored. Encodings: see SPEC.md.

    `image` encoded bytes; `labels` uint8 [H, W] of the source image; `box` float64 [4] in source
    pixels; `grid` uint8 [h, w]; `global_cls` float16 [D]; `region_cls` float16 [R, D]; `region_ids`
    int16 [R]; `region_area` float32 [R], fraction of the view; `ignored` bool [H, W], pixels that the
    data set itself ignores: of the others of label 255 an unseen class was removed. None unless asked for.
    """

    row: int
    image: bytes
    labels: NDArray[np.uint8]
    box: NDArray[np.float64]
    flip: bool
    grid: NDArray[np.uint8]
    global_cls: NDArray[np.float16]
    region_cls: NDArray[np.float16]
    region_ids: NDArray[np.int16]
    region_area: NDArray[np.float32]
    ignored: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Block:
    """All that training needs of one block, in memory. `rows` int64 [n]: its usable rows."""

    rows: NDArray[np.int64]
    arrays: dict[str, NDArray[Any]]
    start: int

    @classmethod
    def of(cls, arrays: dict[str, NDArray[Any]], start: int) -> Block:
        """The block whose first row is `start`, from what was read of it."""
        usable = start + np.flatnonzero(arrays["images/usable"])
        return cls(usable.astype(np.int64), arrays, start)

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, i: int, view: int = 0) -> Sample:
        """View `view` of the block's i-th usable row."""
        row = int(self.rows[i])
        at, a = row - self.start, self.arrays
        data = a["images/data"][slice(*_range(a["images/end"], at))]
        height, width = a["images/size"][at]
        pixels = slice(*_range(a["labels/end"], at))
        ignored = a.get("labels/ignored")
        regions = slice(*_range(a["regions/end"].reshape(-1), at * a["views/flip"].shape[1] + view))
        return Sample(
            row=row,
            image=data.tobytes(),
            labels=a["labels/data"][pixels].reshape(height, width),
            box=a["views/box"][at, view],
            flip=bool(a["views/flip"][at, view]),
            grid=a["masks/grid"][at, view],
            global_cls=a["teacher/global_cls"][at, view],
            region_cls=a["regions/cls"][regions],
            region_ids=a["regions/id"][regions],
            region_area=a["regions/area"][regions],
            ignored=None if ignored is None else ignored[pixels].reshape(height, width),
        )


def _range(end: NDArray[Any], i: int) -> tuple[int, int]:
    return (int(end[i - 1]) if i else 0, int(end[i]))
