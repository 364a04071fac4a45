"""Photometric jitter."""

from __future__ import annotations

import numpy as np

from c2s.training.jitter import photometric_jitter


def image():
    return np.random.default_rng(0).integers(0, 256, (6, 5, 3)).astype(np.uint8)


def test_same_stream_same_result_and_the_input_is_untouched():
    before = image()
    one, two = (photometric_jitter(before, np.random.default_rng(4)) for _ in range(2))
    assert np.array_equal(one, two)
    assert np.array_equal(before, image())
    assert one.dtype == np.uint8


def test_all_four_distortions_occur_and_sometimes_none():
    results = [photometric_jitter(image(), np.random.default_rng(s)) for s in range(200)]
    same = sum(np.array_equal(r, image()) for r in results)
    assert 2 <= same <= 30  # one in sixteen
    grey = np.full((2, 2, 3), 100, np.uint8)
    hueless = [photometric_jitter(grey, np.random.default_rng(s)) for s in range(100)]
    assert all((r == r[0, 0, 0]).all() for r in hueless)  # grey stays grey: only value changes
    values = [int(r[0, 0, 0]) for r in hueless]
    assert min(values) < 65
    assert max(values) > 140


def test_hue_moves_colour_but_not_value():
    red = np.zeros((1, 1, 3), np.uint8)
    red[..., 0] = 200
    results = [photometric_jitter(red, np.random.default_rng(s))[0, 0] for s in range(200)]
    assert any(r[0] == 200 and r[1] > 20 for r in results)
    assert any(r[0] == 200 and r[2] > 20 for r in results)
