"""Metrics against counting by hand, with ignored pixels and absent classes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from c2s.evaluation.confusion import METRICS, ConfusionMatrix, harmonic_mean

N = 6


def naive(pairs, unseen):
    """Mask by mask over all pixels at once, in plain numpy; no confusion matrix."""
    truth = np.concatenate([t.ravel() for t, _ in pairs]) if pairs else np.zeros(0, np.uint8)
    guess = np.concatenate([p.ravel() for _, p in pairs]) if pairs else np.zeros(0, np.int64)
    truth, guess = truth[truth != 255], guess[truth != 255]
    iou = np.full(N, np.nan)
    for c in range(N):
        union = np.count_nonzero((truth == c) | (guess == c))
        if union:
            iou[c] = np.count_nonzero((truth == c) & (guess == c)) / union

    def mean(ids):
        if not np.isin(truth, list(ids)).any():
            return np.nan
        known = np.array([iou[c] for c in ids if iou[c] == iou[c]])
        return np.mean(known) if len(known) else np.nan

    seen, new = mean([c for c in range(N) if c not in unseen]), mean(unseen)
    both = 0.0 if seen == 0 and new == 0 else 2 * seen * new / (seen + new)
    right = np.mean(truth == guess) if len(truth) else np.nan
    found = [np.mean(guess[truth == c] == c) for c in range(N) if (truth == c).any()]
    accuracy = np.mean(found) if found else np.nan
    return iou, np.array([seen, new, both, right, mean(range(N)), accuracy])


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
    iou, figures = naive(pairs, unseen)
    np.testing.assert_array_equal(got.iou, iou)  # bit for bit, nan where nothing was measured
    np.testing.assert_array_equal([getattr(got, name) for name in METRICS], figures)
    assert METRICS == ("sIoU", "uIoU", "hIoU", "pAcc", "mIoU", "mAcc")
    assert confusion.counts.dtype == np.int64


def test_label_maps_of_16_bits_count_as_those_of_8_and_hold_more_classes():
    """255 is a class among many; 65535 is none."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, N, (20, 30)).astype(np.uint8)
    truth[:3] = 255
    wide = truth.astype(np.uint16)
    wide[:3] = 65535
    guess = rng.integers(0, N, truth.shape)
    narrow, broad = ConfusionMatrix(N), ConfusionMatrix(N)
    narrow.update(truth, guess)
    broad.update(wide, guess)
    np.testing.assert_array_equal(narrow.counts, broad.counts)
    many = ConfusionMatrix(847)
    many.update(np.array([[255, 846, 65535, 0]], np.uint16), np.array([[255, 255, 3, 0]]))
    assert many.counts.sum() == 3
    assert many.counts[255, 255] == many.counts[846, 255] == many.counts[0, 0] == 1
    with pytest.raises(ValueError, match=r"truth has ids outside 0\.\.846"):
        many.update(np.array([[847]], np.uint16), np.array([[0]]))


def test_the_papers_harmonic_means():
    assert round(100 * harmonic_mean(0.413, 0.064), 1) == pytest.approx(11.1, abs=0.11)
    assert round(100 * harmonic_mean(0.419, 0.427), 1) == 42.3
    assert harmonic_mean(0.0, 0.0) == 0
    assert math.isnan(harmonic_mean(0.5, math.nan))


def test_where_no_unseen_class_is_annotated_there_is_no_uiou_and_no_hiou():
    """Not 0, which a model that finds every unseen pixel would have as well."""
    confusion = ConfusionMatrix(N)
    confusion.update(np.array([[0, 1, 2, 255]], np.uint8), np.array([[0, 1, 5, 5]]))
    got = confusion.metrics([4, 5])
    assert math.isnan(got.uIoU)
    assert math.isnan(got.hIoU)
    assert got.sIoU == pytest.approx(2 / 3)
    assert got.iou[5] == 0  # predicted where another class is annotated
    assert math.isnan(got.iou[4])
    turned = confusion.metrics([0, 1, 2, 3])
    assert math.isnan(turned.sIoU)
    assert math.isnan(turned.hIoU)


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


@pytest.mark.parametrize("band", [1, 40], ids=["single rows, sparse", "several rows"])
def test_large_images_are_counted_in_bands(band, monkeypatch):
    rng = np.random.default_rng(0)
    truth = rng.choice(np.array([*range(N), 255], np.uint8), (9, 13))
    prediction = rng.integers(0, N, truth.shape)
    whole, banded = ConfusionMatrix(N), ConfusionMatrix(N)
    whole.update(truth, prediction)
    monkeypatch.setattr("c2s.evaluation.confusion.BAND", band)
    banded.update(truth, prediction)
    np.testing.assert_array_equal(banded.counts, whole.counts)
    assert banded.ignored == whole.ignored == np.count_nonzero(truth == 255)
    with pytest.raises(ValueError, match=r"outside 0\.\.5"):
        banded.update(truth, np.full_like(prediction, N))
