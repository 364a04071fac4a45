"""Pretraining of the student's encoder shows no unseen class and writes what the student loads."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from c2s.shapes import train_teacher
from c2s.shapes.scenes import CLASSES, SEEN, render
from c2s.students import pretrain_shapes_net
from c2s.students.pretrain_shapes_net import Classifier, accuracy, presence, pretrain
from c2s.students.shapes_net import ShapesNet


def test_presence_against_a_loop() -> None:
    for index in range(30):
        labels = render("web", index, SEEN).labels
        expected = []
        for name in SEEN:
            pixels = sum(int(v) == CLASSES.index(name) for v in labels.ravel())
            expected.append(pixels >= 0.015 * 64 * 64)
        np.testing.assert_array_equal(presence(labels), np.array(expected, np.float32))
        assert labels.shape == (64, 64)


def test_accuracy_is_balanced() -> None:
    class Always(Classifier):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.ones(len(images), len(SEEN))

    labels = torch.zeros(300, len(SEEN))
    labels[:, 0] = 1
    images = torch.zeros(300, 64, 64, 3, dtype=torch.uint8)
    assert accuracy(Always(), images, labels) == pytest.approx(50)


@pytest.mark.parametrize("tool", [pretrain_shapes_net, train_teacher])
def test_a_full_disk_is_one_sentence_and_noticed_before_the_work(
    tool, tmp_path, monkeypatch, capsys
):
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr(tool, "save_file", full)
    monkeypatch.setattr(sys, "argv", ["tool", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stop:
        tool.main()
    assert stop.value.code == 1
    assert re.fullmatch(
        r"error: the \w+ cannot be written: .*No space left.*\.\n", capsys.readouterr().err
    )


@pytest.mark.slow
def test_a_short_run_writes_a_loadable_encoder(tmp_path: Path) -> None:
    pretrain(tmp_path, seed=0, samples=24, scenes=64, batch_size=8, lr=1e-3)
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["classes"] == list(SEEN)
    assert card["samples"] == 24
    assert 0 <= card["presence_accuracy"] <= 100
    ShapesNet(128, str(tmp_path / "encoder.safetensors"))
