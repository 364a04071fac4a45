"""Two processes on one machine, started as users start them: only the partition differs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_cache import write_cache

from c2s.training import checkpoint_io
from c2s.training.logs import read_metrics

pytestmark = pytest.mark.slow

STEPS = 6
SETTINGS = {
    "student": "shapes-net",
    "iterations": STEPS,
    "batch_size": 4,
    "workers": 0,
    "log_every": 1,
    "checkpoint_every": 4,
    "accelerator": "cpu",
    "loggers": [],
    "ema": 0.9,
    "method": {"heads": 4, "bank_size": 6},
}
PROGRAM = """
import os, sys
from pathlib import Path
import torch
import numpy as np
from torch import nn
from c2s.students.base import FeatureStudent
from c2s.methods import base
from c2s.training import run
from c2s.runs.config import load_config
from c2s.training.validation import ValidationSet
from c2s_cache import open_cache
from c2s_cache.picture import decode_image

class Plain(FeatureStudent):
    '''A student without batch statistics or dropout.'''
    def __init__(self, dim):
        super().__init__()
        self.dim, self.backbone = dim, nn.Conv2d(3, dim, 3, 2, 1)
    def forward(self, images):
        return self.backbone(images)

if os.environ.get("PLAIN"):
    base.create = lambda name, dim, weights: Plain(dim)
torch.set_num_threads(1)
rows = []
step = run.DistillationModule.training_step
def watching(self, batch, batch_idx):
    rows.append(batch.global_cls)  # which tell the views apart
    return step(self, batch, batch_idx)
run.DistillationModule.training_step = watching
if gate := os.environ.get("GATE"):
    from c2s.training.callbacks import Bar
    import time
    def wait(self, trainer, *_):
        while trainer.global_step == 2 and trainer.is_global_zero and not Path(gate).exists():
            time.sleep(0.01)
    Bar.on_train_batch_start = wait
class Scene:
    '''A labelled image: one of the cache's, with labels of every class.'''
    def __init__(self, sample):
        self.id, self.image = f"row {sample.row}", decode_image(sample["images/data"].tobytes())
        rng = np.random.default_rng(sample.row)
        self.labels = rng.integers(0, 6, self.image.shape[:2], np.uint8)
    def read(self):
        return self.image, self.labels

def load_scenes(config, manifest):
    block = open_cache(config.cache).read_block(0, ["images/data"])
    return ValidationSet([Scene(block.sample(i)) for i in range(3)])

if sys.argv[1] == "resume":
    path = run.resume(sys.argv[2])
else:
    path = run.train(load_config(Path(sys.argv[1])), load_validation=load_scenes)
rank = os.environ.get("LOCAL_RANK", "0")
torch.save(torch.cat(rows), f"{path}-rows{rank}.pt")
print("done", rank)
"""


def start(folder, *arguments, **environment):
    program = folder / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), *map(str, arguments)]
    env = {**os.environ, **environment, "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out.decode(), err.decode()


def configure(folder, name, **more):
    file = folder / f"{name}.yaml"
    values = {**SETTINGS, "cache": str(folder / "tiny.zarr"), "runs": str(folder), "name": name}
    file.write_text(yaml.safe_dump({**values, **more}))
    return file


def train(folder, name, environment=(), **more):
    code, _, err = finish(start(folder, configure(folder, name, **more), **dict(environment)))
    assert code == 0, err
    return folder / name


def rows(path, ranks):
    parts = [torch.load(f"{path}-rows{rank}.pt", weights_only=True) for rank in range(ranks)]
    return torch.stack([p.view(STEPS, -1) for p in parts], 1).view(-1)


def losses(path):
    records = [r for r in read_metrics(path) if "loss" in r]
    assert [r["step"] for r in records] == list(range(1, STEPS + 1))
    return [{k: v for k, v in r.items() if k != "images_per_s"} for r in records]


def state(path):
    files = (path / "checkpoint" / f"{name}.safetensors" for name in ("student", "state"))
    return {f"{f.stem}/{k}": v for f in files for k, v in load_file(f).items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    write_cache(folder / "tiny.zarr", views=3)
    return folder


@pytest.fixture(scope="module")
def two(folder):
    return train(folder, "two", devices=2)


def test_the_images_and_the_bank_are_those_of_one_process(folder, two):
    one = train(folder, "one")
    assert torch.equal(rows(two, 2), rows(one, 1))
    bank = "state/state_dict/method.bank.tokens"
    assert torch.equal(state(two)[bank], state(one)[bank])
    assert len(list(folder.glob("two/checkpoint/*"))) == 3


def test_without_batch_statistics_two_processes_are_two_micro_batches(folder):
    """Losses and weights, to the rounding of sums in another order; scores, to a pixel or two."""
    method = {"heads": 4, "global_distillation": False, "dropout": 0.0}
    more = {"method": method, "validation": {"every": 3}}
    plain = {"PLAIN": "1"}
    processes = train(folder, "processes", plain, devices=2, **more)
    micro = train(folder, "micro", plain, accumulate=2, **more)
    for ours, theirs in zip(losses(processes), losses(micro), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    scores = [[r for r in read_metrics(p) if "val/sIoU" in r] for p in (processes, micro)]
    assert [r["step"] for r in scores[0]] == [3, 6]
    for ours, theirs in zip(*scores, strict=True):
        assert ours == pytest.approx(theirs, abs=0.2)
    ours, theirs = state(processes), state(micro)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-5)


def test_interrupt_and_resume_equal_an_uninterrupted_run(folder, two):
    process = start(folder, configure(folder, "cut", devices=2), GATE=str(folder / "gate"))
    metrics = folder / "cut" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.is_file() and len(metrics.read_text().splitlines()) >= 2):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    (folder / "gate").touch()  # the third iteration goes on, with the signal
    code, _, err = finish(process)
    assert code == 1
    assert "Stopped by SIGTERM at iteration" in err, err
    assert checkpoint_io.read_state(folder / "cut").step == 3
    code, _, err = finish(start(folder, "resume", folder / "cut"))
    assert code == 0, err
    ours, whole = state(folder / "cut"), state(two)
    assert ours.keys() == whole.keys()
    assert [k for k in whole if not torch.equal(ours[k], whole[k])] == []
    assert losses(folder / "cut") == losses(two)


def test_the_command_line_speaks_once(folder):
    options = ["--set", "devices=2", "--set", "iterations=2", "--set", "method.heads=4"]
    options += ["--set", "accelerator=cpu", "--set", "loggers=[]", "--set", "workers=0"]
    where = ["--cache", str(folder / "tiny.zarr"), "--runs", str(folder), "--name", "spoken"]
    program = str(Path(sys.executable).parent / "c2s")
    command = [program, "train", *where, "--student", "shapes-net"]
    done = subprocess.run(
        [*command, "--batch-size", "4", *options],
        capture_output=True,
        text=True,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("is complete") == 1
    assert Path(folder, "spoken", "checkpoint", "state.json").is_file()
