"""A power cut at any step leaves a whole checkpoint: the new one or the one before."""

from __future__ import annotations

import shutil

import pytest
import tiny_runs
import torch
from power_cut import Disk

from c2s.runs.checkpoint import HALFWAY, RunError, load_tensors, read_state, saved_step
from c2s.runs.folder import create_run, owned, read_config, read_info
from c2s.runs.run import open_run
from c2s.students import create
from c2s.training import run
from c2s.training.checkpoint_io import SafetensorsIO, save_halfway
from c2s_cache import open_cache


def checkpoint(step):
    values = {"student.a": torch.full((5,), float(step)), "method.b": torch.full((3,), float(step))}
    return {"global_step": step, "state_dict": values}


def held(folder):
    """The iteration of the checkpoint that is there, all of it; None without one."""
    if saved_step(folder) is None:
        with pytest.raises(RunError, match="no checkpoint yet"):
            read_state(folder)
        return None
    found = SafetensorsIO().load_checkpoint(folder / "checkpoint")
    (step,) = {found["global_step"], *(float(v.mean()) for v in found["state_dict"].values())}
    return step


@pytest.mark.parametrize("left", [None, "checkpoint.new", "checkpoint.old"])
def test_a_checkpoint_is_replaced_whole(tmp_path, left):
    """Also where an earlier cut has left the last one under another name."""
    root, io, seen = tmp_path / "run", SafetensorsIO(), []
    root.mkdir()
    io.save_checkpoint(checkpoint(1), root / "checkpoint")
    if left is not None:
        shutil.copytree(root / "checkpoint", root / left)
        shutil.rmtree(root / "checkpoint")
    with Disk(root).watched(lambda folder, what: seen.append((what, held(folder))), tmp_path / "s"):
        io.save_checkpoint(checkpoint(2), root / "checkpoint")
    wrong = [entry for entry in seen if entry[1] not in (1, 2)]
    assert not wrong
    assert [step for _, step in seen[:3]] == [1] * 3
    assert [step for _, step in seen[-3:]] == [2] * 3


def test_the_first_checkpoint_appears_whole(tmp_path):
    root, seen = tmp_path / "run", []
    root.mkdir()
    with Disk(root).watched(lambda folder, what: seen.append((what, held(folder))), tmp_path / "s"):
        SafetensorsIO().save_checkpoint(checkpoint(1), root / "checkpoint")
    assert {step for _, step in seen} == {None, 1}
    assert [step for _, step in seen[-3:]] == [1] * 3


def test_a_halfway_student_is_replaced_whole(tmp_path):
    def student(value):
        layer = torch.nn.Linear(2, 2)
        torch.nn.init.constant_(layer.weight, value)
        return layer

    def check(folder, what):
        assert load_tensors(folder, folder / HALFWAY)["weight"].mean() in (1, 2), what

    root = tmp_path / "run"
    root.mkdir()
    save_halfway(root, student(1.0))
    with Disk(root).watched(check, tmp_path / "s"):
        save_halfway(root, student(2.0))


@pytest.mark.slow
def test_a_run_that_is_complete_stays_complete(tiny_cache, tmp_path):
    """Its folder, made among others, and all that evaluation needs."""
    runs = tmp_path / "all" / "runs"
    tmp_path.joinpath("all").mkdir()
    config = tiny_runs.settings(tiny_cache, runs, student="shapes-net", iterations=2, name="r")
    disk, states = Disk(tmp_path / "all"), []
    with disk.watched(lambda folder, what: states.append(what), tmp_path / "s"):
        run.train(config)
        states.clear()
    disk = tmp_path / "s"  # the last state: what was synced, and nothing else
    assert len(states) == 3
    assert "_synced" in states[-1]
    opened = open_run(disk / "runs" / "r")
    assert opened.step == 2
    assert read_config(disk / "runs" / "r").total == 2


def test_a_new_run_is_there_or_not(tiny_cache, tmp_path):
    """What is there of a run that is only begun never looks like another one's."""
    cache = open_cache(tiny_cache)
    config = tiny_runs.settings(tiny_cache, tmp_path / "runs", student="shapes-net", name="r")
    config = config.resolved(cache.manifest)
    (tmp_path / "runs").mkdir()

    def check(folder, what):
        if (folder / "r" / "config.yaml").exists():
            assert read_config(folder / "r").image_size == config.image_size, what
            assert read_info(folder / "r").dataset == "tiny", what
            load_tensors(folder / "r", folder / "r" / "text.safetensors")

    with Disk(tmp_path / "runs").watched(check, tmp_path / "s"), owned(config):
        create_run(config, cache, create("shapes-net", 16, "random"))
