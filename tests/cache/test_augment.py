"""Drawn views against the field's pipeline: resize the label map, cut arrays, count classes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import label_map
from pydantic import ValidationError

from c2s_cache.augment import AugmentConfig, draw_view, view_rng
from c2s_cache.views import crop_image, crop_labels, inside_image

# With odd sides no pixel centre of the resized map falls on an edge between two source pixels.
sides = st.integers(10, 45).map(lambda n: 2 * n + 1)
shapes = st.tuples(sides, sides)


def labels_of(shape, seed):
    return np.asarray(label_map(np.random.default_rng(seed), *shape, [0, 1, 5, 255])).copy()


def resized(labels, height, width):
    rows = ((np.arange(height) + 0.5) * labels.shape[0] / height).astype(int)
    cols = ((np.arange(width) + 0.5) * labels.shape[1] / width).astype(int)
    return labels[rows][:, cols]


def field_view(labels, size, rng, limit=0.75):
    """Resize keeping proportions, crop up to eleven times, mirror, pad: on arrays, with the same draws."""
    ratio = rng.uniform(0.5, 2.0)
    longest, shortest = int(4 * size * ratio), int(size * ratio)
    factor = min(longest / max(labels.shape), shortest / min(labels.shape))
    large = resized(labels, *(int(side * factor + 0.5) for side in labels.shape))

    def cut():
        top = rng.integers(max(large.shape[0] - size, 0) + 1)
        left = rng.integers(max(large.shape[1] - size, 0) + 1)
        return large[top : top + size, left : left + size]

    view = cut()
    for _ in range(10):
        values, counts = np.unique(view, return_counts=True)
        counts = counts[values != 255]
        if len(counts) > 1 and counts.max() / counts.sum() < limit:
            break
        view = cut()
    if rng.random() < 0.5:
        view = view[:, ::-1]
    return np.pad(view, ((0, size - view.shape[0]), (0, size - view.shape[1])), constant_values=255)


@settings(max_examples=150)
@given(shape=shapes, seed=st.integers(0, 999), size=st.sampled_from([16, 32, 37]))
def test_views_are_those_of_the_field(shape, seed, size):
    labels = labels_of(shape, seed)
    box, flip = draw_view(labels, size, view_rng(seed, 1, 0), AugmentConfig())
    want = field_view(labels, size, view_rng(seed, 1, 0))
    np.testing.assert_array_equal(crop_labels(labels, box, flip, size), want)


@given(shape=shapes, seed=st.integers(0, 999))
def test_padding_lies_right_and_below_and_is_black(shape, seed):
    labels = labels_of(shape, seed)
    box, flip = draw_view(labels, 32, view_rng(seed, 0, 0), AugmentConfig(ratio=(0.5, 1.0)))
    inside = inside_image(*shape, box, flip, 32)
    height, width = inside.any(1).sum(), inside.any(0).sum()
    assert inside[:height, :width].all()
    assert inside.sum() == height * width
    white = np.full((*shape, 3), 255, np.uint8)
    assert ((crop_image(white, box, flip, 32) == 255) == inside[..., None]).all()
    assert not crop_image(white, box, flip, 32)[~inside].any()


def test_a_view_depends_on_seed_row_and_view_alone():
    labels = labels_of((60, 80), 3)
    places = [(s, r, v) for s in (0, 1) for r in (0, 1, 2) for v in (0, 1, 2)]
    drawn = {p: draw_view(labels, 32, view_rng(*p), AugmentConfig()) for p in places}
    again = {p: draw_view(labels, 32, view_rng(*p), AugmentConfig()) for p in reversed(places)}
    assert drawn == again
    assert len(set(drawn.values())) == len(places)


def test_crops_are_balanced_where_they_can_be():
    """Left half one class, right half mostly another: most crops at ratio 2 show a single class."""
    labels = np.zeros((64, 64), np.uint8)
    labels[:, 32:] = 1
    free, tried = (
        [
            draw_view(labels, 32, view_rng(0, r, 0), AugmentConfig(ratio=(2, 2), **more))
            for r in range(300)
        ]
        for more in ({"category_max_ratio": 1.0}, {})
    )

    def good(views):
        shares = [crop_labels(labels, b, f, 32).mean() for b, f in views]
        return np.mean([0.25 < s < 0.75 for s in shares])

    assert good(free) < 0.7
    assert good(tried) > 0.98


def test_switches():
    labels = labels_of((50, 70), 0)
    for chance in (0.0, 1.0):
        config = AugmentConfig(flip=chance)
        assert {draw_view(labels, 16, view_rng(0, r, 0), config)[1] for r in range(20)} == {
            bool(chance)
        }
    with pytest.raises(ValidationError, match="the smaller one first"):
        AugmentConfig(ratio=(2.0, 0.5))
