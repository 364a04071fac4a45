"""Evaluation of a run: JSON keys, class check, table."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from c2s.evaluation.evaluate import check_classes, evaluate
from c2s.evaluation.table import result_table
from c2s.training.config import load_config
from c2s.training.run_folder import Run, RunInfo
from c2s_cache.errors import ConfigError

CLASSES = ("red", "green", "blue", "grey")


class Hues(nn.Module):
    """Features: which channel is strongest. Never finds grey."""

    def forward(self, images):
        return nn.functional.one_hot(images.argmax(1), 4).permute(0, 3, 1, 2).float()


@dataclass
class Item:
    seed: int

    def read(self):
        labels = np.random.default_rng(self.seed).integers(0, 3, (4, 4)).astype(np.uint8)
        labels = labels.repeat(8, 0).repeat(8, 1)
        image = np.zeros((32, 32, 3), np.uint8)
        np.put_along_axis(image, labels[..., None].astype(np.int64), 255, axis=2)
        labels[:2] = 255
        return image, labels


@pytest.fixture
def opened(tmp_path):
    info = RunInfo(
        dataset="hues",
        classes=CLASSES,
        unseen=(2, 3),
        view_size=32,
        teacher={},
        fingerprints={},
        versions={},
    )
    config = load_config(cache=tmp_path / "x.zarr")
    return Run(tmp_path, config, info, 1, np.eye(4, dtype=np.float32), Hues().eval())


def test_result_has_the_promised_keys(opened):
    moved = []
    result = evaluate(opened, [Item(0), Item(1)], device="cpu", advance=moved.append)
    facts = json.loads(json.dumps(result.as_dict()))
    assert facts["pAcc"] == facts["sIoU"] == facts["uIoU"] == facts["hIoU"] == 100.0
    assert facts["classes"][2] == {"id": 2, "name": "blue", "iou": 100.0, "unseen": True}
    assert facts["classes"][3]["iou"] is None
    assert moved == [1, 1]


def test_seen_offset_shifts_towards_unseen_classes(opened):
    result = evaluate(opened, [Item(0)], seen_offset=2.0, device="cpu")
    assert result.metrics.sIoU == 0
    assert result.metrics.uIoU > 0


def test_no_image_is_an_error(opened):
    with pytest.raises(ConfigError, match=r"no image"):
        evaluate(opened, [])


def test_other_classes_are_refused(opened):
    check_classes(opened, CLASSES, "hues")
    with pytest.raises(ConfigError, match=r"Class 1 of other is 'pink'.*'green'"):
        check_classes(opened, ("red", "pink", "blue", "grey"), "other")
    with pytest.raises(ConfigError, match=r"3 classes"):
        check_classes(opened, CLASSES[:3], "other")


def test_csv_and_table(opened, tmp_path):
    result = evaluate(opened, [Item(0)], device=torch.device("cpu"))
    result.write_csv(tmp_path / "r.csv")
    assert (tmp_path / "r.csv").read_text().splitlines() == [
        "id,name,iou,unseen",
        "0,red,100.0,False",
        "1,green,100.0,False",
        "2,blue,100.0,True",
        "3,grey,,True",
    ]
    console = Console(width=100)
    with console.capture() as captured:
        console.print(result_table(result))
    text = captured.get()
    assert "unseen" in text
    assert "100.0" in text
