"""Invariant: a block in memory is a run of arrays, and a sample is a view into them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2s_cache.manifest import USABLE, Manifest


@dataclass(frozen=True)
class Sample:
    """One view of one image, as stored: what was read of it, by array path. Encodings: see SPEC.md.

    Of an array that has an item for each view it holds the view's own. Items of ragged arrays are flat: label maps
    take their shape from the size of their image.
    """

    row: int
    view: int
    arrays: Mapping[str, NDArray[Any]] = field(repr=False)

    def __getitem__(self, path: str) -> NDArray[Any]:
        return self.arrays[path]

    def __contains__(self, path: str) -> bool:
        return path in self.arrays


@dataclass(frozen=True)
class Block:
    """What was read of one block, in memory.

    Attributes:
        manifest: of the cache.
        start: its first row.
        arrays: as `Cache.read` gives them.
        rows: int64 [n], its usable rows.
    """

    manifest: Manifest = field(repr=False)
    start: int
    arrays: Mapping[str, NDArray[Any]] = field(repr=False)

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        usable: NDArray[np.int64] = self.start + np.flatnonzero(self.arrays[USABLE])
        return usable

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, i: int, view: int = 0) -> Sample:
        """View `view` of the block's i-th usable row."""
        row = int(self.rows[i])
        return Sample(row, view, {p: self.item(p, row - self.start, view) for p in self._paths})

    @cached_property
    def _paths(self) -> tuple[str, ...]:
        """Arrays whose items a sample has: those of rows, without `end` columns."""
        m = self.manifest
        ends = {record.end for record in m.arrays.values()}
        once = {path for stage in m.stages if stage.once for path in stage.arrays}
        return tuple(path for path in self.arrays if path not in ends | once)

    def item(self, path: str, at: int, view: int = 0) -> NDArray[Any]:
        """What an array holds for the block's row number `at`, usable or not, and that view of it."""
        values, record = self.arrays[path], self.manifest.arrays[path]
        per_view = self.manifest.per_view(path)
        if record.end is None:
            found: NDArray[Any] = values[at, view] if per_view else values[at]
            return found
        end = self.arrays[record.end].reshape(-1)
        number = at * self.manifest.views + view if per_view else at
        return values[int(end[number - 1]) if number else 0 : int(end[number])]
