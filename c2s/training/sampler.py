"""Invariant: batch t is a pure function of (block sizes, clips, frames, seed, window, views, batch size, t).

Nothing here touches data. Loader workers and processes only decide who computes a batch, never what
is in it; resuming at iteration t means asking for batch t.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_ORDER, _VIEWS, _JITTER, _FRESH, _DROPOUT, _SHIFT = range(6)  # separate random streams of one seed
_CHUNK = 1 << 20


class SampleRef(NamedTuple):
    """One view to load: the `item`-th usable row of `block`, at `position` 0, 1, ... of the run."""

    block: int
    item: int
    view: int
    position: int


@dataclass(frozen=True)
class BatchSequence:
    """The endless sequence of batches of a run.

    An epoch visits every row once: blocks in random order, `shuffle_blocks` consecutive ones of that order
    shuffled together row by row. Epochs follow each other without a gap, so a batch may span two.
    With V cached views, a row shows each of them once in V epochs.

    With T frames, groups of T consecutive frames of a clip are shuffled in place of rows, and follow each other in a
    batch. A clip with n frames in a block has n // T of them there. Every epoch draws how many of the n % T further
    frames are left out before the first group; the others are behind the last one.

    Attributes:
        block_sizes: usable rows per block; blocks of size 0 are allowed.
        batch_size: views per batch, over all processes and micro-batches.
        seed: of the run.
        shuffle_blocks: blocks that are shuffled together.
        views: cached views per row.
        frames: T, of a clip that go together; 1: every row alone.
        clips: of T > 1, by block, how many of its usable rows are of the first clip, of the next one, ...
    """

    block_sizes: tuple[int, ...]
    batch_size: int
    seed: int = 0
    shuffle_blocks: int = 8
    views: int = 1
    frames: int = 1
    clips: tuple[tuple[int, ...], ...] = ()

    def batch(self, step: int, part: int = 0, parts: int = 1) -> list[SampleRef]:
        """Batch `step`, or one of equal contiguous parts of it (a process's, a micro-batch).

        Raises:
            ValueError: the batch cannot be divided evenly.
        """
        if self.batch_size % parts:
            raise ValueError(f"batch size {self.batch_size} is no multiple of {parts} parts")
        size = self.batch_size // parts
        if size % self.frames:
            raise ValueError(f"a part of {size} is no multiple of {self.frames} frames")
        start = step * self.batch_size + part * size
        return [self.sample(position) for position in range(start, start + size)]

    def sample(self, position: int) -> SampleRef:
        """The view at a position of the run."""
        number, frame = divmod(position, self.frames)
        epoch, place = divmod(number, self.groups)
        block, item = self._epoch(epoch).sample(place)
        first = 0 if self.views == 1 else int(self._first_views[self._starts[block] + item])
        if self.frames > 1:
            item = int(self._first_rows(epoch)[self._starts[block] + item]) + frame
        return SampleRef(block, item, (first + epoch) % self.views, position)

    def leader(self, ref: SampleRef) -> SampleRef:
        """The first of the frames that a view goes together with."""
        frame = ref.position % self.frames
        return ref._replace(item=ref.item - frame, position=ref.position - frame)

    @property
    def rows(self) -> int:
        """Views of an epoch."""
        return self.groups * self.frames

    @cached_property
    def groups(self) -> int:
        """Groups of an epoch; where every row is alone, its rows."""
        return int(self._sizes.sum())

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        """Groups per block."""
        if self.frames == 1:
            return np.array(self.block_sizes, np.int64)
        return np.array([sum(n // self.frames for n in block) for block in self.clips], np.int64)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.cumsum(self._sizes) - self._sizes

    @cached_property
    def _first_views(self) -> NDArray[np.unsignedinteger[Any]]:
        """View that each group shows in epoch 0, [groups]; later epochs go round."""
        rng = np.random.default_rng([self.seed, _VIEWS])
        small = np.min_scalar_type(self.views)
        chunks = [min(_CHUNK, self.groups - start) for start in range(0, self.groups, _CHUNK)]
        return np.concatenate([rng.integers(self.views, size=n).astype(small) for n in chunks])

    @cached_property
    def _lengths(self) -> NDArray[np.int64]:
        """Frames of every clip in every block, [clips]."""
        return np.array([length for block in self.clips for length in block], np.int64)

    @cached_property
    def _unshifted(self) -> NDArray[np.int64]:
        """First row of every group within its block where no frame is left out before it, [groups]."""
        starts = [np.cumsum(block) - block for block in map(np.array, self.clips) if len(block)]
        counts = self._lengths // self.frames
        first = np.cumsum(counts) - counts  # group of each clip
        nth = np.arange(self.groups) - np.repeat(first, counts)
        found: NDArray[np.int64] = np.repeat(np.concatenate(starts), counts) + nth * self.frames
        return found

    def _first_rows(self, epoch: int) -> NDArray[np.int64]:
        """First row of every group within its block, [groups]."""
        if epoch not in self._rows:
            for old in sorted(self._rows)[:-1]:
                del self._rows[old]
            rng = np.random.default_rng([self.seed, _SHIFT, epoch])
            shifts = rng.integers(self._lengths % self.frames + 1)
            self._rows[epoch] = self._unshifted + np.repeat(shifts, self._lengths // self.frames)
        return self._rows[epoch]

    @cached_property
    def _rows(self) -> dict[int, NDArray[np.int64]]:
        return {}

    @cached_property
    def _epochs(self) -> dict[int, Epoch]:
        return {}

    def _epoch(self, number: int) -> Epoch:
        if number not in self._epochs:
            for old in sorted(self._epochs)[:-1]:  # a batch spans two at most
                del self._epochs[old]
            self._epochs[number] = Epoch(self._sizes, self.seed, number, self.shuffle_blocks)
        return self._epochs[number]

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


class Epoch:
    """The order of one epoch, every row exactly once; made a window at a time, as it is asked for.

    Going forward costs what the rows passed by cost, going back begins anew.

    Args:
        sizes: usable rows per block, int64 [blocks].
        seed: of the run.
        number: 0, 1, ...
        shuffle_blocks: blocks that are shuffled together.
    """

    def __init__(
        self, sizes: NDArray[np.int64], seed: int, number: int, shuffle_blocks: int
    ) -> None:
        self._stream = (seed, _ORDER, number)
        self._sizes, self._shuffle_blocks = sizes, shuffle_blocks
        blocks = self._begin()
        counts = np.add.reduceat(sizes[blocks], np.arange(0, len(blocks), shuffle_blocks))
        self._ends = np.cumsum(counts)

    def _begin(self) -> NDArray[np.int64]:
        self._rng = np.random.default_rng(self._stream)
        self._blocks = self._rng.permutation(len(self._sizes))
        self._made = 0
        self._held: dict[int, NDArray[np.int64]] = {}
        return self._blocks

    def sample(self, place: int) -> tuple[int, int]:
        """Block and item of the row at a place of the epoch."""
        window = int(np.searchsorted(self._ends, place, side="right"))
        order = self._order(window)
        nth = int(order[place - (self._ends[window - 1] if window else 0)])
        for block in self._blocks[
            window * self._shuffle_blocks : (window + 1) * self._shuffle_blocks
        ].tolist():
            if nth < self._sizes[block]:
                return block, nth
            nth -= int(self._sizes[block])
        raise IndexError(place)

    def _order(self, window: int) -> NDArray[np.int64]:
        """Which of the rows of a window comes when, [rows of the window]; the last two are held."""
        if window < self._made and window not in self._held:
            self._begin()
        while self._made <= window:
            start = self._ends[self._made - 1] if self._made else 0
            self._held.pop(self._made - 2, None)
            self._held[self._made] = self._rng.permutation(int(self._ends[self._made] - start))
            self._made += 1
        return self._held[window]


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
