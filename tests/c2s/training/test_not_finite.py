"""Nothing that is not finite is saved, scored or used, however rarely losses are recorded."""

from __future__ import annotations

import pytest
import tiny_runs
import torch
from safetensors.torch import load_file, save_file
from torch._subclasses.fake_tensor import FakeTensorMode

from c2s.deploy import SegmentationModel, fold_run
from c2s.runs.checkpoint import RunError, load_tensors, saved_step
from c2s.runs.run import open_run
from c2s.runs.tensors import NotFinite, write_tensors
from c2s.training import run
from c2s.training.module import DistillationModule
from c2s.training.validation import MONITORED, Validation, ValidationSet

STEPS = 8


def settings(cache, runs, **more):
    options = {"student": "shapes-net", "iterations": STEPS, "log_every": 1000, "name": "r"}
    return tiny_runs.settings(cache, runs, {"method": {"heads": 4}}, **(options | more))


def losing(monkeypatch, at):
    """The loss of iteration `at` is nan, and of no other."""
    step = DistillationModule.training_step

    def training_step(self, batch, batch_idx):
        bad = self.step + 1 == at
        forward = self.method.forward
        if bad:
            self.method.forward = lambda *args: {
                k: v * float("nan") for k, v in forward(*args).items()
            }
        try:
            return step(self, batch, batch_idx)
        finally:
            self.method.forward = forward

    monkeypatch.setattr(DistillationModule, "training_step", training_step)


def poisoning(monkeypatch, at):
    """A weight is nan after iteration `at`, whose loss was finite."""
    step = DistillationModule.optimizer_step

    def optimizer_step(self, *args):
        step(self, *args)
        if self.step + 1 == at:
            with torch.no_grad():
                next(self.student.parameters()).fill_(float("nan"))

    monkeypatch.setattr(DistillationModule, "optimizer_step", optimizer_step)


def finite(path):
    files = list(path.rglob("*.safetensors"))
    return bool(files) and all(
        value.isfinite().all()
        for file in files
        for value in load_file(file).values()
        if value.is_floating_point()
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("every", "ema"),
    [
        (2, 0.9),
        *(pytest.param(*c, marks=pytest.mark.slow) for c in ((2, None), (3, None), (3, 0.9))),
    ],
)
def test_the_last_good_checkpoint_stays(tiny_cache, tmp_path, monkeypatch, every, ema):
    losing(monkeypatch, at=5)
    config = settings(tiny_cache, tmp_path, checkpoint_every=every, ema=ema)
    kept = 4 if every == 2 else 3
    message = rf"not finite at iteration 5\. The checkpoint of iteration {kept} is kept.*--resume"
    with pytest.raises(NotFinite, match=message):
        run.train(config)
    assert finite(tmp_path / "r")
    assert open_run(tmp_path / "r").step == kept
    monkeypatch.undo()
    assert saved_step(run.resume(tmp_path / "r")) == STEPS


def test_a_weight_is_looked_at_before_it_is_saved(tiny_cache, tmp_path, monkeypatch):
    poisoning(monkeypatch, at=6)
    with pytest.raises(NotFinite, match=r"1 of \d+ tensors of iteration 6 are not finite"):
        run.train(settings(tiny_cache, tmp_path, checkpoint_every=2))
    assert finite(tmp_path / "r")
    assert saved_step(tmp_path / "r") == 4


def test_a_halfway_student_is_finite(tiny_cache, tmp_path, monkeypatch):
    losing(monkeypatch, at=3)
    with pytest.raises(
        NotFinite,
        match=r"iteration 3\. There is no checkpoint yet: .*--overwrite and --set lr=RATE",
    ):
        run.train(settings(tiny_cache, tmp_path, checkpoint_every=100))
    assert not (tmp_path / "r" / "halfway").exists()


def test_weights_that_are_not_finite_are_not_scored(tiny_cache, tmp_path, monkeypatch):
    scored = []
    monkeypatch.setattr(Validation, "scores", lambda *a: scored.append(a) or {MONITORED: 1.0})
    poisoning(monkeypatch, at=6)
    config = settings(tiny_cache, tmp_path, validation={"every": 3}, checkpoint_every=100)
    with pytest.raises(NotFinite, match="iteration 6"):
        run.train(config, load_validation=lambda *_: ValidationSet([]))
    assert len(scored) == 1


@pytest.mark.slow
def test_a_rate_that_explodes_goes_on_with_a_lower_one(tiny_cache, tmp_path):
    """Weights that are finite and give nothing finite any more do not replace a checkpoint, either."""
    path = run.train(settings(tiny_cache, tmp_path, iterations=3, checkpoint_every=1))
    with pytest.raises(NotFinite, match=r"scores are not finite.*checkpoint of iteration 3 is"):
        run.resume(path, iterations=STEPS, settings=["lr=1e30"])
    assert saved_step(path) == 3
    run.resume(path, iterations=STEPS, settings=["lr=1e-5"])
    assert saved_step(path) == STEPS


def test_a_rate_that_explodes_at_once_saves_nothing(tiny_cache, tmp_path):
    with pytest.raises(NotFinite, match=r"--set lr=RATE"):
        run.train(settings(tiny_cache, tmp_path, lr=1e30, warmup=0, checkpoint_every=1))
    assert saved_step(tmp_path / "r") is None


def test_watching_a_loss_never_waits_for_the_device():
    """With tensors that have no values it still runs."""
    module = DistillationModule.__new__(DistillationModule)
    torch.nn.Module.__init__(module)
    module.__dict__.update(_failed=torch.tensor(5), _trainer=None, _fabric=None)
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.MonkeyPatch.context() as patch:
        patch.setattr(DistillationModule, "step", 3)
        module._watch(torch.ones(()))
    assert module._failed.shape == ()


def test_nothing_of_it_is_used(tiny_cache, tmp_path):
    path = run.train(settings(tiny_cache, tmp_path, iterations=1))
    folded = fold_run(open_run(path))
    folded.save_pretrained(tmp_path / "m")
    weights = load_file(path / "checkpoint" / "student.safetensors")
    name = next(k for k, v in weights.items() if v.is_floating_point())
    weights[name].view(-1)[0] = float("inf")
    save_file(weights, path / "checkpoint" / "student.safetensors")
    for use in (open_run, run.resume):
        with pytest.raises(RunError, match=r"student\.safetensors is not the file that was saved"):
            use(path)
    with pytest.raises(NotFinite, match=rf"student\.safetensors are not finite, first {name}.*NEW"):
        load_tensors(path, path / "checkpoint" / "student.safetensors")
    with torch.no_grad():
        next(folded.student.parameters()).fill_(float("nan"))
    with pytest.raises(NotFinite, match="not finite"):
        folded.save_pretrained(tmp_path / "n")
    state = {k: v.contiguous() for k, v in folded.student.state_dict().items()}
    save_file(state, tmp_path / "m" / "model.safetensors")
    with pytest.raises(NotFinite, match=r"model\.safetensors are not finite"):
        SegmentationModel.from_pretrained(tmp_path / "m")


def test_a_file_has_the_rights_of_any_other(tmp_path):
    write_tensors(tmp_path / "a.safetensors", {"a": torch.ones(2)})
    (tmp_path / "b").touch()
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "b").stat().st_mode
