"""What may change where a run goes on, what that does, and what is refused."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
import tiny_runs
import torch
import yaml
from safetensors.torch import load_file

from c2s.runs.checkpoint import RunError, read_state
from c2s.runs.config import TrainConfig
from c2s.runs.continuation import differences, listed, refused
from c2s.runs.folder import read_config
from c2s.runs.run import open_run
from c2s.training import run
from c2s.training.logs import read_metrics
from c2s.training.recorder import Recorder
from c2s.training.schedule import lr_factor
from c2s_cache.errors import ConfigError

STEPS, CUT = 6, 4


def settings(cache, runs, **more):
    options = {"student": "shapes-net", "iterations": STEPS, "checkpoint_every": 2, "lr": 1e-3}
    return tiny_runs.settings(cache, runs, {"method": {"heads": 4}}, **(options | more))


@pytest.fixture(scope="module")
def folder(tiny_cache, tmp_path_factory):
    """Runs of the same settings: `whole`, and `cut` after its fourth iteration."""
    folder = tmp_path_factory.mktemp("continuation")
    run.train(settings(tiny_cache, folder, name="whole"))
    recorded = Recorder.on_train_batch_end

    def interrupting(self, trainer, module, *rest):
        recorded(self, trainer, module, *rest)
        if module.step == CUT:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "on_train_batch_end", interrupting)
        with pytest.raises(run.Interrupted):
            run.train(settings(tiny_cache, folder, name="cut"))
    return folder


@pytest.fixture
def copy(folder, tmp_path):
    def make(name):
        return shutil.copytree(folder / name, tmp_path / name)

    return make


def edit(path, **changes):
    values = yaml.safe_load((path / "config.yaml").read_text())
    (path / "config.yaml").write_text(yaml.safe_dump(values | changes))
    return path


def student(path):
    return load_file(path / "checkpoint" / "student.safetensors")


def same(one, two):
    one, two = student(one), student(two)
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def factor(step, iterations):
    return lr_factor(step, TrainConfig(cache="x", iterations=iterations, warmup=0))


def decay(lr, start, stop):
    """Rates of a schedule that ends at `stop`, as they are recorded."""
    return [round(lr * factor(step, stop), 9) for step in range(start, stop)]


def rates(path):
    return [r["lr0"] for r in read_metrics(path)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_size": 8}, "batch_size 4 -> 8"),
        ({"accumulate": 2}, "accumulate 1 -> 2"),
        ({"ema": 0.9}, "ema none -> 0.9"),
        ({"student": "segformer-b0"}, "student shapes-net -> segformer-b0"),
        ({"image_size": 64}, "image_size 32 -> 64"),
        ({"seed": 1}, "seed 0 -> 1"),
        ({"weight_decay": 0.5}, "weight_decay 0.01 -> 0.5"),
        ({"iterations": 5}, "iterations 6 -> 5"),
        ({"devices": 2}, "devices 1 -> 2"),
        ({"method": {"bank_size": 3}}, r"method.bank_size \d+ -> 3, method.heads 4 -> \d+"),
        ({"validation": {"every": 2}}, "validation none -> "),
        ({"jitter": False, "lr": 1.0}, "jitter True -> False"),
    ],
)
def test_what_would_be_another_run_is_refused_with_a_diff(copy, changes, said):
    path = edit(copy("cut"), **changes)
    before = student(path)
    with pytest.raises(
        RunError, match=rf"trained with other settings: {said}.*may change: more iter"
    ):
        run.resume(path)
    assert all(torch.equal(before[k], v) for k, v in student(path).items())
    with pytest.raises(RunError, match=said):  # nor is it evaluated as what it is not
        open_run(path)


@pytest.mark.slow
def test_the_machine_may_change(copy, folder):
    path = edit(copy("cut"), workers=1, view_cache_gib=0.0, checkpoint_every=100, log_every=1)
    assert same(run.resume(path), folder / "whole")
    assert rates(path) == rates(folder / "whole")


def test_a_rate_acts_from_the_checkpoint_on_and_is_said(copy, folder, capsys):
    path = run.resume(copy("cut"), settings=["lr=0.002"])
    assert f"From iteration {CUT} on: lr 0.001 -> 0.002." in capsys.readouterr().err
    before, ours = rates(folder / "whole"), rates(path)
    assert ours[:CUT] == before[:CUT]
    assert ours[CUT:] == decay(2e-3, CUT, STEPS)
    assert not same(path, folder / "whole")
    assert read_config(path).lr == 0.002
    assert read_state(path).config["lr"] == 0.002
    assert open_run(path).step == STEPS


@pytest.mark.parametrize("where", ["file", "option"])
def test_another_precision_is_said(copy, capsys, where):
    path, change = copy("cut"), {"precision": "bf16-mixed"}
    if where == "file":
        run.resume(edit(path, **change))
    else:
        run.resume(path, settings=["precision=bf16-mixed"])
    assert f"From iteration {CUT} on: precision 32-true -> bf16-mixed." in capsys.readouterr().err
    assert read_config(path).precision == read_state(path).config["precision"] == "bf16-mixed"


@pytest.mark.parametrize(("name", "start"), [("whole", STEPS), ("cut", CUT)])
def test_a_run_is_made_longer_and_its_schedule_is_said(copy, capsys, name, start):
    path = run.resume(copy(name), iterations=9)
    said = " ".join(capsys.readouterr().err.split())
    assert f"From iteration {start} on: iterations {STEPS} -> 9." in said
    then, before = (f"{factor(start, n):.3g}" for n in (9, STEPS))
    assert f"goes on at {then} of its full value, where that of 6 had {before}" in said
    assert [r["step"] for r in read_metrics(path)] == list(range(1, 10))
    assert rates(path)[start:] == decay(1e-3, start, 9)
    assert read_state(path).complete
    assert read_config(path).total == 9
    assert run.resume(path) == path


def test_a_wrong_value_is_wrong_use(copy):
    with pytest.raises(ConfigError, match="lr"):
        run.resume(copy("cut"), settings=["lr=fast"])


def test_a_cache_may_lie_elsewhere(copy, folder, tiny_cache, tmp_path, monkeypatch):
    """Named where it is now, and found from any directory where it has not moved."""
    assert Path(read_config(folder / "cut").cache).is_absolute()
    path = edit(copy("cut"), cache=str(tmp_path / "gone.zarr"))
    with pytest.raises(RunError, match=r"gone\.zarr is not there, .* --resume .* --cache PATH"):
        run.resume(path)
    shutil.copytree(tiny_cache, tmp_path / "here.zarr")
    monkeypatch.chdir(tmp_path)
    assert same(run.resume(path, cache="here.zarr"), folder / "whole")
    assert read_config(path).cache == str(tmp_path / "here.zarr")


@pytest.mark.parametrize("lines", [3, 12, 30])
def test_a_configuration_cut_short_is_not_filled_with_defaults(copy, lines):
    path = copy("whole")
    text = (path / "config.yaml").read_text().splitlines()
    (path / "config.yaml").write_text("\n".join(text[:lines]) + "\n")
    for use in (open_run, run.resume):
        with pytest.raises(RunError, match=r"not whole|damaged|other settings"):
            use(path)


@pytest.mark.parametrize("name", ["student.safetensors", "state.json"])
def test_a_run_without_its_student_is_not_complete(copy, name):
    path = copy("whole")
    (path / "checkpoint" / name).unlink()
    with pytest.raises(RunError, match=r"is missing|no checkpoint yet"):
        run.resume(path)


def test_settings_of_one_version_only_are_no_difference():
    before = {"a": 1, "old": 2, "inner": {"x": 1, "y": 2}, "workers": 3}
    now = {"a": 1, "new": 3, "inner": {"x": 1, "y": 3, "z": 4}, "workers": 5}
    found = differences(before, now)
    assert found == {"inner.y": (2, 3)}
    assert listed(found) == "inner.y 2 -> 3"
    assert refused(found) == ["inner.y"]
    assert refused({"iterations": (3, 4), "lr": (1, 2)}) == []
    assert refused({"iterations": (3, None)}) == ["iterations"]
