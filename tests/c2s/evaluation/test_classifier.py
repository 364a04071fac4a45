"""Scores of classes of one name or several, all at once or a few at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from c2s.evaluation.classifier import Classifier
from c2s.evaluation.inference import Predictor
from c2s.students.base import FeatureStudent


class Conv(FeatureStudent):
    """Features of 8 channels at a quarter of the resolution; it may refuse to score everything at once."""

    def __init__(self, whole=True):
        super().__init__()
        self.weight = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        self.whole = whole

    def forward(self, images):
        return nn.functional.conv2d(images, self.weight, stride=4)

    def classify(self, images, text):
        assert self.whole, "all classes at once"
        return super().classify(images, text)


def text(rows):
    generator = torch.Generator().manual_seed(1)
    return nn.functional.normalize(torch.randn(rows, 8, generator=generator), dim=1)


@torch.inference_mode()
@pytest.mark.parametrize("counts", [(1, 3, 2), (2, 2, 2), (6,)])
def test_the_best_of_a_classs_names_is_its_score(counts):
    images = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(2))
    every = Classifier(Conv(), text(6))(images)
    got = Classifier(Conv(), text(6), counts)(images)
    want = torch.stack([part.amax(1) for part in every.split(list(counts), dim=1)], 1)
    assert got.shape == (2, len(counts), 4, 6)
    assert torch.equal(got, want)


@pytest.mark.parametrize("mode", ["slide", "whole"])
@pytest.mark.parametrize("counts", [(1,) * 300, (2, 1) * 150])
def test_of_many_classes_features_are_held_and_the_predictions_stay(counts, mode):
    """More scores than features, of images of more than one window."""
    names = text(sum(counts))
    late = Classifier(Conv(whole=False), names, counts)
    assert late.late
    assert late.classes == 300
    picture = np.random.default_rng(0).integers(0, 256, (40, 70, 3), np.uint8)
    at_once = Classifier(Conv(), names, counts)
    at_once.late = False
    want = Predictor(at_once, 32, mode).scores(picture)
    got = Predictor(late, 32, mode)
    torch.testing.assert_close(got.scores(picture), want, atol=1e-6, rtol=1e-6)
    labels = got.predict(picture)
    top = want.max(0).values
    chosen = want.gather(0, torch.from_numpy(labels)[None])[0]
    torch.testing.assert_close(chosen, top, atol=1e-6, rtol=1e-6)
    assert len(np.unique(labels)) > 30
    assert labels.max() > 255


def test_up_to_254_classes_all_scores_are_computed_at_once():
    assert not Classifier(Conv(), text(254)).late
    assert Classifier(Conv(), text(255)).late
    wide = nn.functional.normalize(torch.randn(300, 512), dim=1)
    assert not Classifier(Conv(), wide).late  # fewer scores than features
