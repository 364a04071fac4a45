"""The learning rate by absolute iteration."""

from __future__ import annotations

import pytest

from c2s.runs.config import TrainConfig
from c2s.training.schedule import lr_factor


def factor(step, warmup=10, **more):
    config = TrainConfig(cache="x", iterations=100, warmup=warmup, **more)
    return lr_factor(step, config)


def test_warmup_then_linear_decay_by_hand():
    assert factor(0) == pytest.approx(1e-6)
    assert factor(5) == pytest.approx(0.95 * (1e-6 + (1 - 1e-6) * 0.5))
    assert factor(10) == pytest.approx(0.9)
    assert factor(50, poly_power=2.0) == pytest.approx(0.25)
    assert factor(100) == 0


def test_without_warmup_or_decay_it_is_constant():
    assert {factor(s, 0, poly_power=0.0) for s in range(100)} == {1.0}


def test_a_cosine_ends_at_the_part_that_is_asked_for():
    assert factor(5, schedule="cosine") < factor(10, schedule="cosine") < 1
    assert factor(0, 0, schedule="cosine") == 1
    assert factor(25, 0, schedule="cosine") == pytest.approx((1 + 0.5**0.5) / 2)
    assert factor(50, 0, schedule="cosine", final_lr=0.1) == pytest.approx(0.55)
    assert factor(100, 0, schedule="cosine", final_lr=0.1) == pytest.approx(0.1)
    assert factor(100, 0, final_lr=0.1) == pytest.approx(0.1)


def test_steps_fall_at_their_milestones():
    steps = {"schedule": "step", "milestones": (0.5, 0.8), "step_factor": 0.1}
    rates = [factor(s, 0, **steps) for s in (0, 49, 50, 79, 80, 100)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
