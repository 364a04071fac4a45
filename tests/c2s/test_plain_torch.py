"""torch's defaults, changed by the program around, change no weight and no prediction."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import tiny_runs
import torch
from safetensors.torch import load_file

from c2s.deploy import SegmentationModel, fold_run
from c2s.evaluation.evaluate import predictor
from c2s.runs.run import open_run
from c2s.training.run import train

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)


@contextmanager
def defaults(dtype, device):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(before)


def everything(cache, folder):
    """Weights of a run, what it predicts, and the same of its folded model read back."""
    options = {"student": "shapes-net", "iterations": 2}
    path = train(tiny_runs.settings(cache, folder, {"method": {"heads": 4}}, **options))
    run = open_run(path)
    fold_run(run).save_pretrained(folder / "folded")
    model = SegmentationModel.from_pretrained(folder / "folded")
    weights = load_file(path / "checkpoint/student.safetensors", device="cpu")
    return weights | {
        "predicted": torch.from_numpy(predictor(run, device="cpu").predict(IMAGE)),
        "segmented": torch.from_numpy(model.segment(IMAGE)),
        **{f"model.{name}": value for name, value in model.state_dict().items()},
    }


@pytest.fixture(scope="module")
def plain(tiny_cache, tmp_path_factory):
    return everything(tiny_cache, tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize(
    ("dtype", "device"),
    [
        (torch.float64, None),
        (torch.bfloat16, None),
        (torch.float16, "cpu"),
        (torch.float32, "meta"),
    ],
    ids=str,
)
def test_the_callers_defaults_change_nothing(plain, tiny_cache, tmp_path, dtype, device):
    with defaults(dtype, device):
        found = everything(tiny_cache, tmp_path)
        assert torch.get_default_dtype() is dtype
        assert torch.get_default_device().type == (device or "cpu")
    assert found.keys() == plain.keys()
    assert {k: v.dtype for k, v in found.items()} == {k: v.dtype for k, v in plain.items()}
    assert [k for k in plain if not torch.equal(found[k], plain[k])] == []
