"""Invariant: a block in memory is a run of arrays, and a sample is a view into them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2s_cache.schema import RAGGED, ArraySpec

USABLE = "images/usable"
"""Which rows of a block hold an image; read with every block."""


@dataclass(frozen=True)
class Sample:
    """One view of one image, as stored: what was read of it, by array path. Encodings: see SPEC.md.

    Of an array with an axis "view" it holds the view's part. Items of ragged arrays are flat: label maps
    take their shape from `images/size`.
    """

    row: int
    view: int
    arrays: Mapping[str, NDArray[Any]]

    def __getitem__(self, path: str) -> NDArray[Any]:
        return self.arrays[path]

    def __contains__(self, path: str) -> bool:
        return path in self.arrays


@dataclass(frozen=True)
class Block:
    """What was read of one block, in memory. `rows` int64 [n]: its usable rows."""

    rows: NDArray[np.int64]
    arrays: dict[str, NDArray[Any]]
    start: int
    by_view: frozenset[str]
    """Arrays whose second axis is the view."""

    @classmethod
    def of(
        cls, arrays: dict[str, NDArray[Any]], start: int, specs: Mapping[str, ArraySpec]
    ) -> Block:
        """The block whose first row is `start`, from what was read of it, `images/usable` included."""
        usable = start + np.flatnonzero(arrays[USABLE])
        views = frozenset(path for path in arrays if specs[path].dims[1:2] == ("view",))
        return cls(usable.astype(np.int64), arrays, start, views)

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, i: int, view: int = 0) -> Sample:
        """View `view` of the block's i-th usable row."""
        row = int(self.rows[i])
        ends = RAGGED.values()
        items = {p: self._item(p, row - self.start, view) for p in self.arrays if p not in ends}
        return Sample(row, view, items)

    def _item(self, path: str, at: int, view: int) -> NDArray[Any]:
        values = self.arrays[path]
        if path in RAGGED:
            column = RAGGED[path]
            end = self.arrays[column].reshape(-1)
            i = at * self.arrays[column].shape[1] + view if column in self.by_view else at
            item: NDArray[Any] = values[end[i - 1] if i else 0 : end[i]]
        else:
            item = values[at, view] if path in self.by_view else values[at]
        return item
