"""Inference on a device that is not the CPU: the same scores, no tensor left behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from second_device import DEVICES, here, near, other_device

from c2s.evaluation.classifier import Classifier
from c2s.evaluation.inference import Predictor
from c2s.students.registry import create


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mode", ["slide", "whole"])
@pytest.mark.parametrize("windows", [None, 3])
@pytest.mark.parametrize("count", [5, 300])
def test_scores(mode, windows, device, count):
    torch.manual_seed(0)
    model = Classifier(create("shapes-net", 16, "random").eval(), torch.randn(count, 16))
    image = np.random.default_rng(0).integers(0, 256, (45, 70, 3), dtype=np.uint8)
    penalty = torch.linspace(0, 0.4, count)

    want = Predictor(model, 32, mode, windows=windows)
    plain, classes = want.scores(image), want.best(image, [None, penalty])
    with torch.inference_mode(), other_device(device) as waits:
        ours = Predictor(model.to(device), 32, mode, device, windows=windows)
        got = ours.scores(image)
        assert not waits
        predicted = ours.best(image, [None, penalty.to(device)])
    torch.testing.assert_close(here(got), plain, **near(device))
    np.testing.assert_array_equal(predicted, classes)
