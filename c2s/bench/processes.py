"""Processor time and resident memory of a build's processes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from statistics import median

import psutil

MIB = 2**20


class Processes:
    """Worker processes on this machine, and this one, which holds the builder and Dask's scheduler.

    Args:
        workers: process ids.

    Attributes:
        samples: resident sizes in MiB, by kind of process, in the order they were taken.
    """

    def __init__(self, workers: Iterable[int]) -> None:
        self._processes = {
            "workers": [psutil.Process(pid) for pid in workers],
            "builder": [psutil.Process(os.getpid())],
        }
        self.samples: list[dict[str, float]] = []

    def sample(self) -> None:
        """Note how much memory they hold."""
        sizes = {k: [p.memory_info().rss for p in ps] for k, ps in self._processes.items()}
        self.samples.append({name: sum(values) / MIB for name, values in sizes.items()})

    def growth(self) -> dict[str, float]:
        """Growth of resident memory in MiB, see `growth`, by kind of process."""
        return {k: round(growth([s[k] for s in self.samples]), 1) for k in self._processes}

    def processor_seconds(self) -> float:
        """Processor time of all of them so far, of the system included."""
        times = [p.cpu_times() for ps in self._processes.values() for p in ps]
        return float(sum(t.user + t.system for t in times))


def growth(sizes: list[float]) -> float:
    """Median of the last quarter of a run less that of its second quarter; the first one warms up."""
    quarter = max(len(sizes) // 4, 1)
    second = sizes[quarter : 2 * quarter] or sizes
    return median(sizes[-quarter:]) - median(second)
