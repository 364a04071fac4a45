"""Invariant: a pass runs in one thread, so its bits do not depend on how many cores there are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


def processors() -> int:
    """Processors that this process may use: those of its affinity mask, as SLURM and taskset set it."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


def start_lanes(count: int) -> ThreadPoolExecutor:
    """Threads that compute side by side, each alone; torch has one thread in this process from now on.

    Several passes side by side use the cores better than one pass that is shared out, and one lane
    decodes while another waits for a GPU.
    """
    torch.set_num_threads(1)
    return ThreadPoolExecutor(count, "lane", torch.set_num_threads, (1,))


@contextmanager
def lanes(device: torch.device) -> Iterator[ThreadPoolExecutor]:
    """A lane per core, or a single one where a GPU computes, for a while; then torch has its threads back."""
    before = torch.get_num_threads()
    try:
        with start_lanes(1 if device.type == "cuda" else processors()) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)
