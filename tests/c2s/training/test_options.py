"""Accumulation, moving average, validation and early stopping: what they compute, and that a run with
all of them resumes to the bit."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import tiny_runs
import torch
from safetensors.torch import load_file
from torch import nn

from c2s.evaluation.confusion import METRICS
from c2s.evaluation.evaluate import evaluate, predictor
from c2s.runs.run import open_run
from c2s.students.base import FeatureStudent
from c2s.training import checkpoint_io, run
from c2s.training.logs import read_metrics
from c2s.training.module import DistillationModule
from c2s.training.recorder import Recorder
from c2s.training.validation import MONITORED, Validation, ValidationSet
from c2s_cache import open_cache
from c2s_cache.errors import ConfigError
from c2s_cache.picture import decode_image

STEPS = 6


def settings(cache, runs, **more):
    options = {"student": "shapes-net", "iterations": STEPS, "checkpoint_every": 2}
    return tiny_runs.settings(cache, runs, {"method": {"heads": 4}}, **(options | more))


class Scene:
    """A labelled image: one of the cache's, with labels of every class."""

    def __init__(self, sample, seed):
        self.id, self.image = f"row {sample.row}", decode_image(sample["images/data"].tobytes())
        self.labels = np.random.default_rng(seed).integers(0, 6, self.image.shape[:2], np.uint8)

    def read(self):
        return self.image, self.labels


def scenes(cache):
    block = open_cache(cache).read_block(0, ["images/data"])
    return [Scene(block.sample(i), i) for i in range(len(block))]


def load_scenes(config, manifest):
    return ValidationSet(scenes(config.cache)[: config.validation.limit])


def tensors(path):
    files = (path / "checkpoint" / f"{name}.safetensors" for name in ("student", "state"))
    return {f"{f.stem}/{k}": v for f in files for k, v in load_file(f).items()}


def differing(one, two):
    one, two = tensors(one), tensors(two)
    assert one.keys() == two.keys()
    return [k for k in one if not torch.equal(one[k], two[k])]


def records(path):
    return [{k: v for k, v in r.items() if k != "images_per_s"} for r in read_metrics(path)]


EVERYTHING = {
    "accumulate": 2,
    "ema": 0.9,
    "validation": {"every": 2, "limit": 2},
    "channels_last": True,
}


@pytest.fixture(scope="module")
def everything(tiny_views_cache, tmp_path_factory):
    config = settings(tiny_views_cache, tmp_path_factory.mktemp("runs"), name="whole", **EVERYTHING)
    return run.train(config, load_validation=load_scenes)


# 4 is an iteration with a score and a checkpoint
@pytest.mark.slow
@pytest.mark.parametrize("at", [pytest.param(3, marks=pytest.mark.slow), 4])
def test_a_run_with_everything_resumes_to_the_bit(
    everything, tiny_views_cache, tmp_path, monkeypatch, at
):
    recorded = Recorder.on_train_batch_end

    def interrupting(self, trainer, module, outputs, batch, batch_idx):
        recorded(self, trainer, module, outputs, batch, batch_idx)
        if batch_idx == 2 * at - 2:  # after the first micro-batch of iteration `at`
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Recorder, "on_train_batch_end", interrupting)
    config = settings(tiny_views_cache, tmp_path, name="cut", **EVERYTHING)
    with pytest.raises(run.Interrupted, match=f"iteration {at} of {STEPS}"):
        run.train(config, load_validation=load_scenes)
    monkeypatch.setattr(Recorder, "on_train_batch_end", recorded)
    path = run.resume(tmp_path / "cut", load_validation=load_scenes)
    assert differing(path, everything) == []
    assert records(path) == records(everything)
    assert checkpoint_io.read_state(path).complete
    ours, whole = (checkpoint_io.read_state(p).checkpoint["callbacks"] for p in (path, everything))
    assert ours == whole


def test_records_count_iterations(everything):
    steps = [r["step"] for r in records(everything) if "loss" in r]
    assert steps == list(range(1, STEPS + 1))
    assert [r["step"] for r in records(everything) if MONITORED in r] == [2, 4, 6]


class Plain(FeatureStudent):
    """A student without batch statistics, which would differ by micro-batch."""

    def __init__(self, dim):
        super().__init__()
        self.dim, self.backbone = dim, nn.Conv2d(3, dim, 3, 2, 1)

    def forward(self, images):
        return self.backbone(images)


def test_an_iteration_is_the_mean_of_its_micro_batches(tiny_cache, tmp_path, monkeypatch):
    monkeypatch.setattr("c2s.methods.base.create", lambda name, dim, weights: Plain(dim))
    config = settings(tiny_cache, tmp_path, accumulate=2, iterations=1)
    config = config.model_copy(
        update={"method": config.method.model_copy(update={"latent_embedding": False})}
    )
    used = {}
    step = torch.optim.AdamW.step

    def stepping(self, closure=None):
        value = step(self, closure)
        for group in self.param_groups:
            used.update(
                (n, p.grad.clone()) for n, p in zip(group["names"], group["params"], strict=True)
            )
        return value

    monkeypatch.setattr(torch.optim.AdamW, "step", stepping)
    (record,) = records(run.train(config))
    module, parts = run.build_module(config), []
    for batch in run.C2SDataModule(config).stream(0, 1):
        losses = module.training_step(batch, 0)
        (losses["loss"] / 2).backward()
        parts.append({k: v.item() for k, v in losses.items()})
    assert len(parts) == 2
    for key in ("loss", "global", "local", "focal", "dice", "ce"):
        assert record[key] == pytest.approx(np.mean([p[key] for p in parts]), abs=1e-6)
    gradients = {name: p.grad for name, p in module.named_parameters()}
    assert used.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(used[name], gradient)


def test_micro_batches_are_the_batch(tiny_views_cache, tmp_path):
    whole = run.C2SDataModule(settings(tiny_views_cache, tmp_path)).stream(1, 4)
    cut = run.C2SDataModule(settings(tiny_views_cache, tmp_path, accumulate=2))
    rows = [row for batch in whole for row in batch.global_cls.tolist()]
    assert [row for batch in cut.stream(1, 4) for row in batch.global_cls.tolist()] == rows
    assert [len(batch) for batch in cut.stream(1, 4)] == [2] * 6
    # Two processes: the micro-batch of both together is what one process would have.
    parts = zip(cut.stream(1, 4, 0, 2), cut.stream(1, 4, 1, 2), strict=True)
    assert [r for pair in parts for b in pair for r in b.global_cls.tolist()] == rows


@pytest.mark.slow
def test_the_average_is_the_runs_student(tiny_cache, tmp_path, monkeypatch):
    weights = []
    step = DistillationModule.optimizer_step

    def watching(self, *args):
        step(self, *args)
        weights.append({k: v.clone() for k, v in self.student.state_dict().items()})

    monkeypatch.setattr(DistillationModule, "optimizer_step", watching)
    path = run.train(settings(tiny_cache, tmp_path, ema=0.75))
    average = weights[0]
    for new in weights[1:]:
        average = {
            k: 0.75 * v + 0.25 * new[k] if v.is_floating_point() else new[k]
            for k, v in average.items()
        }
    student = open_run(path).student.state_dict()
    for key, value in average.items():
        if value.is_floating_point():
            torch.testing.assert_close(student[key], value)
    raw = load_file(path / "checkpoint" / "state.safetensors")
    assert torch.equal(raw["state_dict/student.project.weight"], weights[-1]["project.weight"])
    half = load_file(path / "halfway" / "student.safetensors")
    assert not torch.equal(half["project.weight"], weights[STEPS // 2 - 1]["project.weight"])


def test_scores_are_those_of_the_evaluation(everything, tiny_views_cache):
    opened, items = open_run(everything), scenes(tiny_views_cache)[:2]
    model = predictor(opened, device="cpu")
    result = evaluate(model, items, opened.vocabulary)
    (record,) = [r for r in records(everything) if MONITORED in r and r["step"] == STEPS]
    for key in METRICS:
        assert record[f"val/{key}"] == pytest.approx(result.as_dict()[key], abs=1e-3)
    seen = evaluate(model, items, opened.vocabulary, ignored=(3, 5))
    assert record[MONITORED] == pytest.approx(100 * seen.metrics.sIoU, abs=1e-3)


@pytest.mark.slow
def test_scoring_changes_nothing(tiny_views_cache, tmp_path):
    blind = run.train(settings(tiny_views_cache, tmp_path, name="blind"))
    validation = {"every": 2, "limit": 2}
    config = settings(tiny_views_cache, tmp_path, name="scored", validation=validation)
    scored = run.train(config, load_validation=load_scenes)
    assert differing(scored, blind) == []
    assert records(blind) == [r for r in records(scored) if "loss" in r]


@pytest.mark.slow
def test_patience_stops_the_run_which_is_then_complete(tiny_cache, tmp_path, monkeypatch):
    scores = iter([50.0, 40.0, 60.0, 60.0, 59.0, 99.0])
    monkeypatch.setattr(Validation, "scores", lambda *_: {MONITORED: next(scores)})
    validation = {"every": 1, "patience": 2}
    config = settings(tiny_cache, tmp_path, validation=validation, checkpoint_every=100)
    path = run.train(config, load_validation=load_scenes)
    state = checkpoint_io.read_state(path)
    assert (state.step, state.complete) == (5, True)
    assert run.resume(path, load_validation=load_scenes) == path
    assert next(scores) == 99.0


def test_scoring_needs_images(tiny_cache, tmp_path):
    with pytest.raises(ConfigError, match="load_validation"):
        run.train(settings(tiny_cache, tmp_path, validation={"every": 1}))
    assert not tmp_path.joinpath("shapes-net-tiny-seed0").exists()


def test_batches_must_divide(tiny_cache, tmp_path):
    with pytest.raises(ConfigError, match=r"batch_size 4 is no multiple .* = 6"):
        settings(tiny_cache, tmp_path, accumulate=3, devices=2)


@pytest.mark.slow
def test_mixed_precision_trains_with_losses_in_float32(tiny_cache, tmp_path, monkeypatch):
    seen = []
    step = DistillationModule.training_step

    def watching(self, batch, batch_idx):
        self.student.register_forward_hook(lambda *a: seen.append(a[2].dtype))
        losses = step(self, batch, batch_idx)
        assert all(v.dtype == torch.float32 for v in losses.values())
        return losses

    monkeypatch.setattr(DistillationModule, "training_step", watching)
    path = run.train(settings(tiny_cache, tmp_path, precision="bf16-mixed", iterations=2))
    assert set(seen) == {torch.bfloat16}
    assert [np.isfinite(r["loss"]) for r in records(path)] == [True, True]


@pytest.mark.slow
def test_a_compiled_student_trains_alike_and_saves_plain_names(everything, tiny_cache, tmp_path):
    config = settings(tiny_cache, tmp_path, iterations=2)
    eager = run.train(config)
    compiled = run.train(config.model_copy(update={"compile": True, "name": "compiled"}))
    ours, theirs = tensors(compiled), tensors(eager)
    assert ours.keys() == theirs.keys()
    for one, other in zip(records(compiled), records(eager), strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    assert open_run(compiled).step == 2
