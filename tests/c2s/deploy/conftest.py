"""Tiny trained runs to fold."""

from __future__ import annotations

import pytest
import torch

from c2s.runs.config import load_config
from c2s.runs.run import open_run
from c2s.training import run


@pytest.fixture(
    scope="session",
    params=["shapes-net", pytest.param("segformer-b0", marks=pytest.mark.slow)],
)
def folder(request, tiny_cache, tmp_path_factory):
    """Run folder of a student of random weights after two iterations on scenes of six classes."""
    torch.set_num_threads(1)
    runs = tmp_path_factory.mktemp("deploy")
    config = load_config(
        cache=tiny_cache,
        student=request.param,
        weights="random",
        iterations=2,
        batch_size=4,
        workers=0,
        accelerator="cpu",
        runs=runs,
    )
    return run.train(config)


@pytest.fixture
def opened(folder):
    """The same, opened."""
    return open_run(folder)


@pytest.fixture
def facts():
    """What `c2s eval --json` says, but for the classes."""
    return {
        "dataset": "tiny",
        "split": "val",
        "setting": "inductive",
        "mode": "slide",
        "seen_offset": 0.0,
        "folded": False,
        "images": 7,
        "sIoU": 12.34,
        "uIoU": None,
        "hIoU": 5.0,
        "mIoU": 6.0,
        "pAcc": 7.0,
        "mAcc": 8.0,
    }
