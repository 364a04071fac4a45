"""Background by threshold against loops, and how the sweep is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from c2s.evaluation.background import Background
from c2s.evaluation.evaluate import evaluate
from c2s.evaluation.inference import Predictor
from c2s.evaluation.oracle import oracle_names
from c2s.evaluation.table import result_table
from c2s.terminal import print_table
from c2s.vocabulary import Vocabulary

SIZE = 32


class Given(nn.Module):
    """Scores that do not depend on the image, [3, 32, 32], of the classes beside background."""

    mean = std = (0.5, 0.5, 0.5)

    def __init__(self, scores):
        super().__init__()
        self.scores = scores

    def forward(self, images):
        return self.scores[None]


class Item:
    id = "one"

    def __init__(self, labels):
        self.labels = labels

    def read(self):
        return np.zeros((SIZE, SIZE, 3), np.uint8), self.labels


@pytest.fixture(scope="module")
def scores():
    return torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model(scores):
    return Predictor(Given(scores), SIZE, "whole")


@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_pixel_below_the_threshold_is_background(model, scores, place):
    """Classes keep their numbers round the one that has no text; something is always foreground."""
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    thresholds = (0.0, 0.6, 0.9, 5.0)
    found = Background(place, thresholds).predictions(model, image, "one")
    others = [i for i in range(4) if i != place]
    most = float(scores.max())
    for threshold, prediction in zip(thresholds, found, strict=True):
        for y in range(0, SIZE, 5):
            for x in range(0, SIZE, 3):
                top, best = scores[:, y, x].max(0)
                want = place if top < min(threshold, most) else others[int(best)]
                assert prediction[y, x] == want
    assert [int((p == place).sum()) for p in found] == sorted(
        int((p == place).sum()) for p in found
    )
    assert (found[0] != place).all()
    assert (found[-1] != place).sum() == 1


def test_thresholds_are_swept_from_one_pass(model, capsys):
    labels = np.random.default_rng(0).integers(0, 4, (SIZE, SIZE)).astype(np.uint8)
    words = Vocabulary(("background", "a", "b", "c"), np.eye(4, dtype=np.float32), (2,))
    sought = Background(0, (0.7, 0.9))
    result = evaluate(model, [Item(labels)], words, background=sought)
    assert list(result.sweep) == [0.7, 0.9]
    for threshold, metrics in result.sweep.items():
        (prediction,) = Background(0, (threshold,)).predictions(
            model, *Item(labels).read()[:1], "one"
        )
        assert metrics.pAcc == pytest.approx((prediction == labels).mean())
    told = result.as_dict()["sweep"]
    assert [each["background_threshold"] for each in told] == [0.7, 0.9]
    print_table(result_table(result))
    assert "threshold 0.9" in capsys.readouterr().out


def test_a_vocabulary_without_one_class():
    rows = np.arange(10, dtype=np.float32).reshape(5, 2)
    names = (("x", "y"), ("bg",), ("z",), ("w",))
    words = Vocabulary(("x", "bg", "z", "w"), rows, (1, 3), names)
    found = words.without(1)
    assert (found.classes, found.names, found.unseen) == (
        ("x", "z", "w"),
        (names[0], *names[2:]),
        (2,),
    )
    np.testing.assert_array_equal(found.embeddings, rows[[0, 1, 3, 4]])
    assert words.without(0).counts == (1, 1, 1)


def test_a_segment_is_named_by_its_commonest_class():
    segments = np.array([[0, 0, 0, 2], [0, 2, 2, 2], [5, 5, 5, 5]])
    labels = np.array([[3, 3, 255, 1], [1, 1, 1, 255], [255, 255, 255, 255]], np.uint8)
    want = [[3, 3, 3, 1], [3, 1, 1, 1], [0, 0, 0, 0]]
    np.testing.assert_array_equal(oracle_names(segments, labels), want)
