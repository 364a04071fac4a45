"""Invariant: batch t is a pure function of (block sizes, seed, window, views, batch size, t).

Nothing here touches data. Loader workers and processes only decide who computes a batch, never what
is in it; resuming at iteration t means asking for batch t.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_ORDER, _VIEWS, _JITTER, _FRESH, _DROPOUT = range(5)  # separate random streams of one seed


class SampleRef(NamedTuple):
    """One view to load: the `item`-th usable row of `block`, at `position` 0, 1, ... of the run."""

    block: int
    item: int
    view: int
    position: int


@dataclass(frozen=True)
class BatchSequence:
    """The endless sequence of batches of a run.

    An epoch visits every row once: blocks in random order, `window` consecutive ones of that order
    shuffled together row by row. Epochs follow each other without a gap, so a batch may span two.
    With V cached views, a row shows each of them once in V epochs.

    Attributes:
        block_sizes: usable rows per block; blocks of size 0 are allowed.
        batch_size: samples per batch, over all processes and micro-batches.
        seed: of the run.
        window: blocks that are shuffled together.
        views: cached views per row.
    """

    block_sizes: tuple[int, ...]
    batch_size: int
    seed: int = 0
    window: int = 8
    views: int = 1

    def batch(self, step: int, part: int = 0, parts: int = 1) -> list[SampleRef]:
        """Batch `step`, or one of equal contiguous parts of it (a process's, a micro-batch).

        Raises:
            ValueError: the batch cannot be divided evenly.
        """
        if self.batch_size % parts:
            raise ValueError(f"batch size {self.batch_size} is no multiple of {parts} parts")
        size = self.batch_size // parts
        start = step * self.batch_size + part * size
        return [self.sample(position) for position in range(start, start + size)]

    def sample(self, position: int) -> SampleRef:
        """The sample at a position of the run."""
        epoch, place = divmod(position, sum(self.block_sizes))
        order = epoch_order(self.block_sizes, self.seed, epoch, self.window)
        block, item = order[place].tolist()
        first = view_offsets(self.block_sizes, self.seed, self.views)[block]
        return SampleRef(block, item, int((first[item] + epoch) % self.views), position)


@lru_cache(maxsize=2)
def epoch_order(
    block_sizes: tuple[int, ...], seed: int, epoch: int, window: int
) -> NDArray[np.int64]:
    """Order of one epoch: int64 [rows, 2] of (block, item), every row exactly once.

    Args:
        block_sizes: usable rows per block.
        seed: of the run.
        epoch: 0, 1, ...
        window: blocks that are shuffled together.
    """
    rng = np.random.default_rng([seed, _ORDER, epoch])
    blocks = rng.permutation(len(block_sizes))
    parts = []
    for start in range(0, len(blocks), window):
        held = blocks[start : start + window]
        rows = [np.stack([np.full(block_sizes[b], b), np.arange(block_sizes[b])], 1) for b in held]
        parts.append(rng.permutation(np.concatenate(rows), axis=0))
    return np.concatenate(parts).astype(np.int64)


@lru_cache(maxsize=2)
def view_offsets(
    block_sizes: tuple[int, ...], seed: int, views: int
) -> tuple[NDArray[np.int64], ...]:
    """View that each row shows in epoch 0, per block int64 [block size]; later epochs go round."""
    rng = np.random.default_rng([seed, _VIEWS])
    return tuple(rng.integers(views, size=size) for size in block_sizes)


def jitter_rng(seed: int, position: int) -> np.random.Generator:
    """Random stream of the photometric distortion of the sample at a position."""
    return np.random.default_rng([seed, _JITTER, position])


def fresh_view_rng(seed: int, position: int) -> np.random.Generator:
    """Random stream of the geometry of the sample at a position, where views are not replayed."""
    return np.random.default_rng([seed, _FRESH, position])


def dropout_seed(seed: int, step: int, part: int) -> int:
    """Seed of torch's random state (dropout, stochastic depth) for one part of iteration `step`."""
    state = np.random.SeedSequence([seed, _DROPOUT, step, part]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))  # torch.manual_seed takes 63 bits
