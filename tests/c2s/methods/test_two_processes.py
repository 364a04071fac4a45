"""The methods beside C2S on two processes, started as users start them: see `training/test_distributed.py` for C2S."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from in_process import command
from safetensors.torch import load_file

from c2s.demo.grids import usual_recipe
from c2s.training.logs import read_metrics

pytestmark = pytest.mark.slow

STEPS = 3
OTHERS = ("clip-rc", "gkc", "zeroseg")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a cache of 16 scenes for all of them."""
    folder = tmp_path_factory.mktemp("two")
    methods = [word for method in OTHERS for word in ("--method", method)]
    command(folder)(
        "cache", "build", "--dataset", "shapes", "--limit", 16, *methods, "--out", "four.zarr"
    )
    return folder


@pytest.fixture(scope="module")
def two(folder):
    """The runs of two processes, by method."""
    return {method: train(folder, method, 2) for method in OTHERS}


def train(folder, method, devices):
    name = f"{method}-{devices}"
    words = ["train", "--cache", "four.zarr", "--method", method, "--recipe", usual_recipe(method)]
    words += ["--name", name, "--iterations", str(STEPS), "--batch-size", "4"]
    for setting in (f"devices={devices}", "accelerator=cpu", "workers=0", "log_every=1"):
        words += ["--set", setting]
    program = str(Path(sys.executable).parent / "c2s")
    done = subprocess.run(
        [program, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("is complete") == 1
    return folder / "runs" / name


@pytest.mark.parametrize("method", OTHERS)
def test_it_trains_on_two_processes(two, method):
    """No parameter is left without a gradient, which several processes cannot do with, and every loss is a number."""
    records = [r for r in read_metrics(two[method]) if "loss" in r]
    assert [r["step"] for r in records] == list(range(1, STEPS + 1))
    assert all(math.isfinite(r["loss"]) for r in records)


def test_zerosegs_mean_of_tokens_is_that_of_one_process(folder, two):
    """It follows the tokens of all processes; half of each batch has another mean."""
    means = []
    for path in (train(folder, "zeroseg", 1), two["zeroseg"]):
        state = load_file(path / "checkpoint" / "state.safetensors")
        (mean,) = (v for k, v in state.items() if k.endswith("method.mean"))
        means.append(mean)
    torch.testing.assert_close(*means, rtol=0, atol=1e-6)
    assert means[0].abs().max() > 0.01
