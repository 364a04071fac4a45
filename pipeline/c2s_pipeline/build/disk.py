"""Invariant: a cache takes no more disk than is projected, as far as the images that were tried are like the others.

What a block takes whatever its rows hold (chunks that are not full, indexes of shards, the file system's own blocks)
is counted as Zarr lays it out. What rows take is measured, and raised by `MARGIN` standard errors of the images that
were tried.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2s_cache.schema import ArraySpec

FILE_BLOCK = 4096
"""Bytes in which file systems give space to a file."""
MARGIN = 3


def allocated(sizes: Iterable[int]) -> int:
    """Bytes that files of these sizes take on a disk."""
    return sum(-(-size // FILE_BLOCK) * FILE_BLOCK for size in sizes)


@dataclass(frozen=True)
class TriedArray:
    """What a trial wrote of one array.

    Attributes:
        spec: the array in the whole cache.
        files: their sizes in bytes.
        slots: float64 [n], of each row tried.
        weights: float64 [n], bytes of each row where it is compressed alone: how they spread.
    """

    spec: ArraySpec
    files: Sequence[int]
    slots: NDArray[np.float64]
    weights: NDArray[np.float64]

    @classmethod
    def of(cls, spec: ArraySpec, files: Sequence[int], rows: Sequence[NDArray[Any]]) -> TriedArray:
        """From the values of each row, of a ragged array [slots, ...]."""
        slots = [len(row) if spec.ragged else 1 for row in rows]
        weights = [
            len(zlib.compress(row.tobytes(), 1)) if len(row.tobytes()) else 0 for row in rows
        ]
        return cls(spec, files, np.array(slots, np.float64), np.array(weights, np.float64))

    def projected(self, rows: int, block_rows: int) -> int:
        """Bytes on disk of so many rows in such blocks; where these were all tried, what they took."""
        if rows == len(self.slots):
            return allocated(self.files)
        blocks, rest = divmod(rows, block_rows)
        return blocks * self._block(block_rows) + (self._block(rest) if rest else 0)

    def _block(self, rows: int) -> int:
        axis, spec = int(self.spec.ragged), self.spec
        chunk, shard = spec.chunks[axis], spec.shards[axis]
        slots = _most(self.slots, rows)
        shards, index = math.ceil(slots / shard), 16 * (shard // chunk) + 4
        if spec.zstd is None:
            item = math.prod(spec.chunks[axis + 1 :]) * np.dtype(spec.dtype).itemsize
            size = math.ceil(slots / chunk) * (chunk * item + 4)
        elif self.weights.any():
            content = sum(self.files) - len(self.files) * index
            size = math.ceil(content * _most(self.weights, rows) / self.weights.sum())
        else:
            size = 0
        return allocated([size + shards * index]) + max(shards - 1, 0) * FILE_BLOCK


def _most(values: NDArray[np.float64], rows: int) -> float:
    """What the sum over so many other rows hardly exceeds, from the values of some."""
    tried = len(values)
    spread = values.std(ddof=1) if tried > 1 else 0.0
    return float(rows * values.mean() + MARGIN * spread * math.sqrt(rows + rows**2 / tried))


def projected_once(arrays: int, size: int) -> int:
    """Bytes on disk of so many arrays of a stage that is computed once, `size` bytes before they are compressed."""
    return allocated([size + size // 1000]) + arrays * FILE_BLOCK
