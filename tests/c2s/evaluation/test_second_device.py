"""Inference on a device that is not the CPU: the same scores, no tensor left behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from second_device import NAME, second_device

from c2s.evaluation.inference import CosineClassifier, Predictor
from c2s.students.registry import create


@pytest.mark.parametrize("mode", ["slide", "whole"])
@pytest.mark.parametrize("windows", [None, 3])
def test_scores(mode, windows):
    torch.manual_seed(0)
    model = CosineClassifier(create("shapes-net", 16, "random").eval(), torch.randn(5, 16))
    image = np.random.default_rng(0).integers(0, 256, (45, 70, 3), dtype=np.uint8)
    penalty = torch.linspace(0, 0.4, 5)

    want = Predictor(model, 32, mode, penalty, windows=windows)
    plain, classes = want.scores(image), want.predict(image)
    with torch.inference_mode(), second_device() as waits:
        ours = Predictor(model.to(NAME), 32, mode, penalty.to(NAME), NAME, windows=windows)
        got = ours.scores(image)
        assert not waits
        predicted = ours.predict(image)
    torch.testing.assert_close(got.held, plain, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(predicted, classes)
