"""Invariant: both sides of a comparison run in one process, in alternating rounds; medians are compared."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from c2s_pipeline.build.provenance import versions
from c2s_pipeline.memory import peak_memory

PACKAGES = ("torch", "zarr", "zarrs", "numpy", "open_clip_torch", "scikit-learn", "pillow")

Side = Callable[[], int]
"""One round of one side: does its work and returns how many items it did."""


@dataclass(frozen=True)
class Rates:
    """Items per second of one side in every round, warm-up left out."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The figure that is reported."""
        return median(self.rounds)


def alternate(
    sides: Mapping[str, Side],
    rounds: int,
    warmup: int = 1,
    advance: Callable[[int], None] | None = None,
) -> dict[str, Rates]:
    """Time sides in alternating rounds, the order reversed every other round.

    Args:
        sides: what to time, by name.
        rounds: timed rounds of each side.
        warmup: rounds before them.
        advance: called with 1 after every round of every side.
    """
    rates: dict[str, list[float]] = {name: [] for name in sides}
    gc.collect()
    for number in range(warmup + rounds):
        order = list(sides.items())
        for name, side in order if number % 2 == 0 else reversed(order):
            started = time.perf_counter()
            items = side()
            seconds = time.perf_counter() - started
            if number >= warmup:
                rates[name].append(items / seconds)
            if advance is not None:
                advance(1)
    return {name: Rates(tuple(values)) for name, values in rates.items()}


def result(
    bench: str,
    rates: Mapping[str, Rates],
    ours: str,
    reference: str,
    unit: str,
    what: Mapping[str, Any],
    **more: Any,
) -> dict[str, Any]:
    """The object that `c2s bench --json` prints.

    Args:
        bench: its name.
        rates: of every side.
        ours, reference: which sides are compared.
        unit: of the rates; higher is better.
        what: what was run.
        **more: further keys.
    """
    first, second = rates[ours].median, rates[reference].median
    return {
        "bench": bench,
        "ours": first,
        "reference": second,
        "unit": unit,
        "ratio": first / second,
        "rounds": len(rates[ours].rounds),
        "sides": {name: [round(r, 3) for r in side.rounds] for name, side in rates.items()},
        **more,
        "what": {"ours": ours, "reference": reference, **what, **machine()},
    }


def machine() -> dict[str, Any]:
    """Versions, processor threads, and the largest memory this process has held, in MiB."""
    return {
        "versions": versions(PACKAGES),
        "processors": os.cpu_count(),
        "peak_memory_mib": round(peak_memory() / 2**20, 1),
    }


def device_name() -> str:
    """The device that builds and trainings use by default."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
