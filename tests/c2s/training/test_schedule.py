"""The learning rate by absolute iteration."""

from __future__ import annotations

import pytest

from c2s.training.schedule import lr_factor


def test_warmup_then_linear_decay_by_hand():
    assert lr_factor(0, 100, 10, 1.0) == pytest.approx(1e-6)
    assert lr_factor(5, 100, 10, 1.0) == pytest.approx(0.95 * (1e-6 + (1 - 1e-6) * 0.5))
    assert lr_factor(10, 100, 10, 1.0) == pytest.approx(0.9)
    assert lr_factor(50, 100, 10, 2.0) == pytest.approx(0.25)
    assert lr_factor(100, 100, 10, 1.0) == 0


def test_without_warmup_or_decay_it_is_constant():
    assert {lr_factor(s, 10, 0, 0.0) for s in range(10)} == {1.0}
