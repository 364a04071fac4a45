"""Photometric distortion against a plain pixel-by-pixel reading of its definition."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from c2s.training.jitter import NEUTRAL, draw_jitter, photometric_jitter


def image(seed=0, height=6, width=5):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_torchvision_distorts_in_another_way():
    """Why its transforms are not used: should this ever fail, they may be."""
    from torchvision.transforms.v2 import functional

    pixels = np.array([[[100, 200, 10], [50, 50, 50]]], np.uint8)
    batch = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    ours = distorted(pixels, (0, 1.5, 1, 0, 1))
    assert ours[0, 0].tolist() == [150, 255, 15]
    assert functional.adjust_contrast(batch, 1.5)[0, :, 0, 0].tolist() == [100, 250, 0]


def distorted(pixels, draws):
    """`photometric_jitter` on one image [H, W, 3]."""
    batch = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    out = photometric_jitter(batch, torch.tensor(np.asarray(draws, np.float32))[None])
    assert out.dtype == torch.float32
    return out[0].permute(1, 2, 0).numpy()


def by_definition(pixels, draws):
    """Brightness, contrast (first), saturation and hue in HSV, contrast (last), in float64.

    Returns the values, and the pixels where no rounding was a close call, which single precision may
    decide otherwise.
    """
    shift, before, saturation, hue, after = (float(d) for d in np.asarray(draws, np.float32))
    clear = np.ones(pixels.shape[:2], bool)

    def whole(values, rounded):
        boundary = values - (0.5 if rounded else 0.0)
        close = np.abs(boundary - np.rint(boundary)) < 1e-3
        if not rounded:
            close &= values != np.rint(values)
        clear[close.any(-1)] = False
        return np.rint(values) if rounded else np.trunc(values)

    out = whole(np.clip(pixels.astype(np.float64) + shift, 0, 255), rounded=False)
    out = whole(np.clip(out * before, 0, 255), rounded=False)
    for place in np.ndindex(out.shape[:2]):
        h, s, v = colorsys.rgb_to_hsv(*(out[place] / 255))
        out[place] = 255 * np.array(colorsys.hsv_to_rgb((h + hue) % 1, min(s * saturation, 1), v))
    out = whole(out, rounded=True)
    return whole(np.clip(out * after, 0, 255), rounded=False), clear


factors = st.floats(0.5, 1.5, width=32)
all_draws = st.tuples(
    st.floats(-32, 32, width=32),
    factors,
    factors,
    st.integers(-18, 17).map(lambda h: h / 180),
    factors,
)


@settings(max_examples=60)
@example(draws=(0.0, 0.65, 1.25, 0.0, 1.5), seed=0)
@given(draws=all_draws, seed=st.integers(0, 99))
def test_each_pixel_follows_the_definition(draws, seed):
    got = distorted(image(seed), draws)
    want, clear = by_definition(image(seed), draws)
    np.testing.assert_array_equal(got[clear], want[clear])
    assert np.abs(got - want).max() <= farthest(draws)


def farthest(draws):
    """How far close calls can carry a pixel: each moves it by 1, which every later factor scales.

    A channel after the turn is v - s c w(p): v the value, c the chroma, p = (difference of two channels) / c +
    constant, and w has slopes of at most 1. If channels move by e, c and the difference move by 2 e and
    c w(p) by 2 e + 2 (2 e).
    """
    _, before, saturation, _, after = draws
    moved = before + 1
    moved = moved * (1 + 6 * saturation) + 1
    return moved * after + 1


def test_most_pixels_are_clear():
    rng = np.random.default_rng(0)
    share = [by_definition(image(s), draw_jitter(rng))[1].mean() for s in range(40)]
    assert np.mean(share) > 0.9


def test_neutral_draws_change_nothing():
    every = np.stack(np.meshgrid(*[np.arange(0, 256, 15)] * 3), -1).reshape(-1, 18, 3)
    np.testing.assert_array_equal(distorted(every.astype(np.uint8), NEUTRAL), every)


def test_brightness_is_cut_before_contrast():
    white = np.full((1, 1, 3), 250, np.uint8)
    assert distorted(white, (32, 0.5, 1, 0, 1)).max() == 127


@pytest.mark.parametrize("turns", [1 / 3, -1 / 3, 2 / 3])
def test_a_third_of_a_turn_exchanges_channels(turns):
    shift = round(3 * turns) % 3
    want = np.roll(image(), shift, axis=-1)
    np.testing.assert_array_equal(distorted(image(), (0, 1, 1, turns, 1)), want)


def test_images_of_a_batch_are_distorted_each_by_its_own_draws():
    pixels = np.stack([image(s) for s in range(6)])
    draws = np.stack([draw_jitter(np.random.default_rng(s)) for s in range(6)])
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    before = batch.clone()
    together = photometric_jitter(batch, torch.from_numpy(draws))
    assert torch.equal(batch, before)
    for i in range(6):
        alone = distorted(pixels[i], draws[i])
        np.testing.assert_array_equal(together[i].permute(1, 2, 0).numpy(), alone)


def test_draws_have_the_published_ranges_and_odds():
    draws = np.stack([draw_jitter(np.random.default_rng(s)) for s in range(4000)])
    changed = (draws != np.float32(NEUTRAL)).mean(0)
    np.testing.assert_allclose(changed, [0.5, 0.25, 0.5, 0.5 * 35 / 36, 0.25], atol=0.03)
    assert not ((draws[:, 1] != 1) & (draws[:, 4] != 1)).any()
    low, high = draws.min(0), draws.max(0)
    np.testing.assert_allclose(low, [-32, 0.5, 0.5, -0.1, 0.5], atol=0.1)
    np.testing.assert_allclose(high, [32, 1.5, 1.5, 17 / 180, 1.5], atol=0.1)
    turns = draws[:, 3] * 180
    np.testing.assert_allclose(turns, np.rint(turns), atol=1e-5)
    assert np.array_equal(draws[7], draw_jitter(np.random.default_rng(7)))
