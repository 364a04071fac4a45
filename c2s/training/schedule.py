"""Invariant: the learning rate is a function of the absolute iteration alone."""

from __future__ import annotations

import math

from c2s.runs.config import TrainConfig

WARMUP_START = 1e-6
"""Fraction of the rate at the first iteration of the warm-up."""


def lr_factor(step: int, config: TrainConfig) -> float:
    """Linear warm-up times the decay; the stock schedule of SegFormer and SegNeXt by default.

    With t = step / iterations and e = `final_lr`, the decay is
    poly: e + (1 - e) (1 - t)^power; cosine: e + (1 - e) (1 + cos(pi t)) / 2; step: `step_factor` to the power of
    the number of milestones that t has reached. The warm-up is r + (1 - r) min(1, step / warmup), r = 1e-6.

    Args:
        step: iterations done, 0 .. iterations.
        config: of the run, resolved.

    Returns:
        Factor on every group's learning rate, in [0, 1].
    """
    decay, warmup = _decay(step / config.total, config), config.warmup or 0
    if step >= warmup:
        return decay
    return decay * (WARMUP_START + (1 - WARMUP_START) * step / warmup)


def _decay(part: float, config: TrainConfig) -> float:
    """Of a rate after a part of the run."""
    if config.schedule == "step":
        factor: float = config.step_factor ** sum(part >= m for m in config.milestones)
        return factor
    left = max(0.0, 1 - part)
    cosine = (1 - math.cos(math.pi * left)) / 2
    fall: float = left**config.poly_power if config.schedule == "poly" else cosine
    return config.final_lr + (1 - config.final_lr) * fall
