"""The pixel losses in closed form against their plain definitions, derived by autograd."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from c2s.methods import fused_pixel_loss as fused
from c2s.methods.clip_to_seg import LossWeights
from c2s.methods.fused_pixel_loss import pixel_losses
from c2s.methods.pixel_loss import cross_entropy_loss, dice_loss, focal_loss

WEIGHTS = LossWeights(focal=20.0, dice=3.0, ce=0.5)
PLAIN = {"focal": focal_loss, "dice": dice_loss, "ce": cross_entropy_loss}


def plain(scores, target, absent, weights=WEIGHTS):
    size = target.shape[1:]
    if scores.shape[2:] != size:
        scores = interpolate(scores, size, mode="bilinear", align_corners=False)
    scores = scores.masked_fill(absent[:, :, None, None], float("-inf"))
    losses = {name: loss(scores, target) for name, loss in PLAIN.items()}
    return {"pixel": sum(getattr(weights, n) * v for n, v in losses.items()), **losses}


def both(scores, *rest):
    """Losses and gradients of ours and of the plain ones."""
    found = []
    for losses_of in (pixel_losses, plain):
        leaf = scores.clone().requires_grad_()
        losses = losses_of(leaf, *rest)
        losses["pixel"].backward()
        found.append(({k: v.detach() for k, v in losses.items()}, leaf.grad))
    return found


def example(seed, images=3, channels=4, size=(7, 6), dtype=torch.float64, scale=3.0):
    """Scores at half the size or at it, pixels and one whole image unsupervised, some channels absent."""
    torch.manual_seed(seed)
    coarse = size if seed % 3 == 0 else (size[0] // 2 + 1, size[1] // 2)
    scores = torch.randn(images, channels, *coarse, dtype=dtype) * scale
    present = max(channels - 1, 1)
    target = torch.randint(-1, present, (images, *size))
    if images > 1:
        target[1] = -1
    absent = torch.zeros(images, channels, dtype=torch.bool)
    absent[::2, present:] = True
    return scores, target, absent


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), images=st.integers(1, 4), channels=st.integers(1, 6))
def test_losses_and_gradients_are_those_of_the_definitions(seed, images, channels):
    ours, theirs = both(*example(seed, images, channels), WEIGHTS)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", ["focal", "dice", "ce"])
def test_each_loss_has_its_own_weight(name):
    weights = LossWeights(**{n: 2.0 * (n == name) for n in PLAIN})
    ours, theirs = both(*example(1), weights)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)
    assert ours[1].abs().sum() > 0


def test_the_gradient_is_right_numerically():
    scores, target, absent = example(2, images=2, channels=3, size=(4, 4))

    def loss(x):
        return pixel_losses(x, target, absent, WEIGHTS)["pixel"]

    assert torch.autograd.gradcheck(loss, scores.requires_grad_())


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e3])
def test_in_float32_scores_may_be_large(scale):
    """alpha = 100 makes scores of +-100, whose softmax underflows; its logarithm must not."""
    ours, theirs = both(*example(4, channels=6, dtype=torch.float32, scale=scale), WEIGHTS)
    torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=1e-6 * scale)
    assert all(v.isfinite().all() for v in (*ours[0].values(), ours[1]))


@pytest.mark.parametrize("images", [1, 2, 3])
@pytest.mark.parametrize("limit", ["CHUNK_BYTES", "CPU_CHUNK_BYTES"])
def test_images_take_turns_and_nothing_changes(images, limit, monkeypatch):
    """The limit of the device decides how many images a turn has."""
    scores, target, absent = example(5, images=5)
    held, one_turn = [], fused._losses_and_gradient

    def recording(x, *rest):
        held.append(len(x))
        return one_turn(x, *rest)

    monkeypatch.setattr(fused, "_losses_and_gradient", recording)
    monkeypatch.setattr(fused, limit, images * 4 * 4 * 7 * 6)
    ours, theirs = both(scores, target, absent, WEIGHTS)
    turns = {1: [1] * 5, 2: [2, 2, 1], 3: [3, 2]}[images]
    assert held == (turns if limit == "CPU_CHUNK_BYTES" else [5])
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)


def test_nothing_supervised_is_zero():
    scores, target, absent = example(6)
    ours, _ = both(scores, torch.full_like(target, -1), absent, WEIGHTS)
    assert not any(v.any() for v in (*ours[0].values(), ours[1]))


def test_the_scores_are_left_alone_and_only_the_sum_has_a_gradient():
    for seed in (3, 4):  # at the target's size, and below it
        scores, target, absent = example(seed)
        before = scores.clone()
        losses = pixel_losses(scores.requires_grad_(), target, absent, WEIGHTS)
        assert torch.equal(scores, before)
        assert [k for k, v in losses.items() if v.requires_grad] == ["pixel"]
        first, second = (
            torch.autograd.grad(factor * losses["pixel"], scores, retain_graph=True)[0]
            for factor in (1.0, 3.0)
        )
        torch.testing.assert_close(3 * first, second)
        with torch.no_grad():
            assert not pixel_losses(scores, target, absent, WEIGHTS)["pixel"].requires_grad
