"""Metrics against counting by hand, with ignored pixels and absent classes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from c2s.evaluation.confusion import ConfusionMatrix, harmonic_mean

N = 6


def naive(pairs, unseen):
    """Class by class, image by image, with sets of pixels."""
    iou = []
    for c in range(N):
        both = either = 0
        for truth, prediction in pairs:
            for t, p in zip(truth.flatten().tolist(), prediction.flatten().tolist(), strict=True):
                if t != 255:
                    both += t == c and p == c
                    either += c in (t, p)
        iou.append(both / either if either else math.nan)
    mean = {}
    for name, members in (("s", [c for c in range(N) if c not in unseen]), ("u", unseen)):
        known = [iou[c] for c in members if not math.isnan(iou[c])]
        mean[name] = sum(known) / len(known) if known else math.nan
    right = sum(int(((t == p) & (t != 255)).sum()) for t, p in pairs)
    counted = sum(int((t != 255).sum()) for t, _ in pairs)
    return iou, mean["s"], mean["u"], right / counted if counted else math.nan


label = st.one_of(st.integers(0, N - 1), st.just(255))
images = st.tuples(st.integers(1, 5), st.integers(1, 5)).flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.uint8, shape, elements=label),
        hnp.arrays(np.int64, shape, elements=st.integers(0, N - 1)),
    )
)


@settings(max_examples=80, deadline=None)
@given(pairs=st.lists(images, max_size=4), unseen=st.sets(st.integers(0, N - 1)).map(sorted))
def test_parity_with_counting_by_hand(pairs, unseen):
    confusion = ConfusionMatrix(N)
    for truth, prediction in pairs:
        confusion.update(truth, prediction)
    got = confusion.metrics(unseen)
    iou, seen_mean, unseen_mean, accuracy = naive(pairs, unseen)
    np.testing.assert_allclose(got.iou, iou)
    np.testing.assert_allclose(
        [got.sIoU, got.uIoU, got.pAcc], [seen_mean, unseen_mean, accuracy], rtol=1e-12
    )
    if seen_mean + unseen_mean > 0:
        assert got.hIoU == pytest.approx(2 * seen_mean * unseen_mean / (seen_mean + unseen_mean))
    assert confusion.counts.dtype == np.int64


def test_the_papers_harmonic_means():
    assert round(100 * harmonic_mean(0.413, 0.064), 1) == pytest.approx(11.1, abs=0.11)
    assert round(100 * harmonic_mean(0.419, 0.427), 1) == 42.3
    assert harmonic_mean(0.0, 0.0) == 0
    assert math.isnan(harmonic_mean(0.5, math.nan))


def test_predictions_on_ignored_pixels_do_not_matter():
    truth = np.array([[0, 255]], np.uint8)
    results = []
    for wrong in range(N):
        confusion = ConfusionMatrix(N)
        confusion.update(truth, np.array([[0, wrong]]))
        results.append(confusion.metrics([5]).sIoU)
    assert set(results) == {1.0}


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        (np.zeros((2, 2), np.uint8), np.zeros((2, 3), int), "shape"),
        (np.full((1, 1), 6, np.uint8), np.zeros((1, 1), int), "truth has ids"),
        (np.zeros((1, 1), np.uint8), np.full((1, 1), -1), "prediction has ids"),
    ],
)
def test_wrong_maps_are_refused(truth, prediction, message):
    with pytest.raises(ValueError, match=message):
        ConfusionMatrix(N).update(truth, prediction)
