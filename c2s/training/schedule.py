"""Invariant: the learning rate is a function of the absolute iteration alone."""

from __future__ import annotations

WARMUP_START = 1e-6
"""Fraction of the rate at the first iteration of the warm-up."""


def lr_factor(step: int, iterations: int, warmup: int, power: float) -> float:
    """Linear warm-up times polynomial decay, the stock schedule of SegFormer and SegNeXt.

    (1 - step / iterations)^power * (r + (1 - r) min(1, step / warmup)), r = 1e-6.

    Args:
        step: iterations done, 0 .. iterations.
        iterations: length of the run.
        warmup: iterations of warm-up; 0 for none.
        power: of the decay.

    Returns:
        Factor on every group's learning rate, in [0, 1].
    """
    decay: float = max(0.0, 1 - step / iterations) ** power
    if step >= warmup:
        return decay
    return decay * (WARMUP_START + (1 - WARMUP_START) * step / warmup)
