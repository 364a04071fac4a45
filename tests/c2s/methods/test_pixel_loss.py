"""Pixel loss against plain loops over pixels and channels."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from c2s.methods.feature_map import FeatureMap
from c2s.methods.pixel_loss import (
    class_scores,
    cross_entropy_loss,
    dice_loss,
    focal_loss,
)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def pixels(target, b):
    return [
        (y, x)
        for y in range(target.shape[1])
        for x in range(target.shape[2])
        if target[b, y, x] >= 0
    ]


def present(target, b):
    return sorted({int(t) for t in target[b].flatten() if t >= 0})


def naive_focal(logits, target, alpha=0.25, gamma=2.0):
    total, masks = 0.0, 0
    for b in range(len(logits)):
        masks += len(present(target, b))
        for c in range(logits.shape[1]):
            costs = []
            for y, x in pixels(target, b):
                p = sigmoid(logits[b, c, y, x].item())
                if target[b, y, x] == c:
                    costs.append(-alpha * (1 - p) ** gamma * math.log(p))
                else:
                    costs.append(-(1 - alpha) * p**gamma * math.log(1 - p))
            total += sum(costs) / max(len(costs), 1)
    return total / max(masks, 1)


def naive_dice(logits, target):
    total, masks = 0.0, 0
    for b in range(len(logits)):
        for c in present(target, b):
            masks += 1
            overlap = area = size = 0.0
            for y, x in pixels(target, b):
                p, t = sigmoid(logits[b, c, y, x].item()), float(target[b, y, x] == c)
                overlap, area, size = overlap + p * t, area + p, size + t
            total += 1 - (2 * overlap + 1) / (area + size + 1)
    return total / max(masks, 1)


def naive_cross_entropy(logits, target):
    costs = []
    for b in range(len(logits)):
        for y, x in pixels(target, b):
            column = [math.exp(v) for v in logits[b, :, y, x].tolist()]
            costs.append(-math.log(column[int(target[b, y, x])] / sum(column)))
    return sum(costs) / max(len(costs), 1)


PAIRS = [
    (focal_loss, naive_focal),
    (dice_loss, naive_dice),
    (cross_entropy_loss, naive_cross_entropy),
]


@pytest.mark.parametrize(("ours", "naive"), PAIRS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), channels=st.integers(1, 4))
def test_parity_with_loops(ours, naive, seed, channels):
    torch.manual_seed(seed)
    logits = torch.randn(2, channels, 3, 4, dtype=torch.float64) * 3
    target = torch.randint(-1, channels, (2, 3, 4))
    assert ours(logits, target).item() == pytest.approx(naive(logits, target))


@pytest.mark.parametrize(("ours", "naive"), PAIRS)
def test_absent_channels_are_as_if_they_were_not_there(ours, naive):
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    target = torch.randint(0, 3, (2, 2, 2))
    padded = torch.cat([logits, torch.full((2, 2, 2, 2), -math.inf, dtype=torch.float64)], 1)
    padded.requires_grad_()
    loss = ours(padded, target)
    loss.backward()
    assert loss.item() == pytest.approx(naive(logits, target))
    assert padded.grad is not None
    assert padded.grad.isfinite().all()
    assert not padded.grad[:, 3:].any()


@pytest.mark.parametrize(("ours", "naive"), PAIRS)
def test_nothing_supervised_is_zero(ours, naive):
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = ours(logits, torch.full((1, 2, 2), -1))
    loss.backward()
    assert loss.item() == 0 == naive(logits, torch.full((1, 2, 2), -1))
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_extreme_logits_stay_finite():
    logits = torch.tensor([1e4, -1e4]).view(1, 2, 1, 1).requires_grad_()
    for loss in (focal_loss, dice_loss, cross_entropy_loss):
        value = loss(logits, torch.ones(1, 1, 1, dtype=torch.int64))
        value.backward()
        assert value.isfinite()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()


@pytest.mark.parametrize("normalize", [True, False])
def test_scores_are_the_printed_products(normalize):
    torch.manual_seed(0)
    f, a = torch.randn(2, 5, 2, 3), torch.nn.functional.normalize(torch.randn(3, 5), dim=1)
    latent = torch.randn(2, 2, 5)
    out = class_scores(FeatureMap(f), a[None], latent, 2.0, 3.0, normalize)
    assert out.shape == (2, 5, 2, 3)
    for b in range(2):
        for y in range(2):
            for x in range(3):
                v = f[b, :, y, x]
                for n in range(3):
                    expected = 2.0 * float(v @ a[n]) / (float(v.norm()) if normalize else 1.0)
                    assert out[b, n, y, x].item() == pytest.approx(expected, abs=1e-5)
                for u in range(2):
                    cosine = float(v @ latent[b, u] / v.norm() / latent[b, u].norm())
                    assert out[b, 3 + u, y, x].item() == pytest.approx(3 * cosine, abs=1e-5)
