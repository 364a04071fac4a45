"""Invariant: how much a build does at once follows from the machine; what it computes does not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from c2s_cache import Manifest
from c2s_cache.change import Change
from c2s_pipeline.build.block import batch_rows
from c2s_pipeline.lanes import processors


class Progress(Protocol):
    """Receives what a build does."""

    def change(self, change: Change) -> None:
        """Another request is being met from what is there."""

    def once(self, stage: str, done: int, total: int) -> None:
        """So much is done of a stage that is computed once."""

    def start(self, total: int, done: int) -> None:
        """The build has `total` rows, of which `done` are already in the cache."""

    def advance(self, rows: int) -> None:
        """`rows` more rows were computed."""

    def warn(self, sentence: str) -> None:
        """Something is wrong, and the build goes on."""


class Silent:
    """Tells nobody."""

    def change(self, change: Change) -> None:
        pass

    def once(self, stage: str, done: int, total: int) -> None:
        pass

    def start(self, total: int, done: int) -> None:
        pass

    def advance(self, rows: int) -> None:
        pass

    def warn(self, sentence: str) -> None:
        pass


@dataclass(frozen=True)
class Resources:
    """Where a build runs: worker processes (None: one per GPU, else one that uses all cores), or the
    address of a running Dask scheduler whose workers see the same paths; and who is told about it."""

    workers: int | None = None
    scheduler: str | None = None
    progress: Progress = field(default_factory=Silent)


def lanes_of(workers: int) -> int:
    """Threads that compute in each worker process: together, as many as there are cores."""
    return max(processors() // workers, 1)


def blocks_under_way(manifest: Manifest, lanes: int) -> int:
    """Blocks that a worker process has in hand at once: lanes have work while one of them is written."""
    batches = -(-manifest.block_rows // batch_rows(manifest))
    return 1 + -(-lanes // batches)
