"""Resident memory of a build's processes over time."""

from __future__ import annotations

import os
from collections.abc import Iterable
from statistics import median

import psutil

MIB = 2**20


class Residents:
    """Samples the resident size of worker processes and of this one, which holds Dask's scheduler.

    Args:
        workers: process ids on this machine.
    """

    def __init__(self, workers: Iterable[int]) -> None:
        self._processes = {
            "workers": [psutil.Process(pid) for pid in workers],
            "scheduler": [psutil.Process(os.getpid())],
        }
        self.samples: list[dict[str, float]] = []

    def sample(self) -> None:
        """Take a sample, in MiB."""
        sizes = {k: [p.memory_info().rss for p in ps] for k, ps in self._processes.items()}
        self.samples.append({name: sum(values) / MIB for name, values in sizes.items()})

    def growth(self) -> dict[str, float]:
        """Growth in MiB, see `growth`, of each kind of process."""
        return {k: round(growth([s[k] for s in self.samples]), 1) for k in self._processes}


def growth(sizes: list[float]) -> float:
    """Median of the last quarter of a run less that of its second quarter; the first one warms up."""
    quarter = max(len(sizes) // 4, 1)
    second = sizes[quarter : 2 * quarter] or sizes
    return median(sizes[-quarter:]) - median(second)
