"""CLIP-RC's runs on a few Shapes scenes: whose tower, what is saved, and by which protocol it is scored."""

from __future__ import annotations

import json

import pytest
import torch
from in_process import command
from safetensors.torch import load_file

from c2s.methods.registry import method_config
from c2s.runs.run import open_run
from c2s.students.clip_tower import stored_tower
from c2s.testing import shapes
from c2s_cache import CacheError

STAGES = ("images", "labels", "views", "text", "tower")
SMALL = ("--set", "method.ffn=32", "--set", "method.prompts=2")
STEPS = ("--iterations", 2, "--batch-size", 2)


@pytest.fixture(scope="module")
def cache():
    return shapes.shapes_cache(STAGES)


@pytest.fixture
def c2s(monkeypatch, tmp_path):
    """The command in this process and an empty folder; what it printed."""
    monkeypatch.chdir(tmp_path)
    return command(tmp_path)


def test_a_tower_of_another_teacher_is_refused(cache):
    """By whoever would train on it, in one sentence."""
    values, _ = shapes.computed(cache.manifest, shapes.scenes())
    other = cache.manifest.teacher.model_copy(update={"tower_digest": "0" * 64})
    wrong = shapes.written(cache.manifest.model_copy(update={"teacher": other}), values)
    with pytest.raises(CacheError) as error:
        stored_tower(wrong)
    digest = cache.manifest.teacher.tower_digest
    assert f"holds the image tower {digest[:12]}, but its teacher" in error.value.what
    with pytest.raises(CacheError):
        method_config({"name": "clip-rc"}).new_student("prompted-clip", None, wrong)


def test_a_new_student_has_the_caches_tower(cache):
    config = method_config({"name": "clip-rc", "heads": 4, "bridge": 4})
    student = config.new_student("prompted-clip", None, cache)
    _, tensors = stored_tower(cache)
    assert torch.equal(student.backbone.proj, torch.from_numpy(tensors["proj"].copy()))
    assert student.architecture["tower"]["digest"] == cache.manifest.teacher.tower_digest


@pytest.mark.slow
def test_the_commands_on_shapes(c2s, cache, tmp_path):
    """Train, score here and on other names, go on transductively, fold, segment, and a table of ablations."""
    c2s("train", "--cache", cache.path, "--method", "clip-rc", "--name", "rc", *STEPS, *SMALL)
    run = tmp_path / "runs/rc"
    frozen = load_file(run / "frozen.safetensors")
    saved = load_file(run / "checkpoint/student.safetensors")
    assert frozen
    assert not frozen.keys() & saved.keys()
    opened = open_run(run)
    assert all(torch.equal(opened.student.state_dict()[k], v) for k, v in frozen.items())

    score = ("--dataset", "shapes", "--limit", 2, "--json")
    here = json.loads(c2s("eval", "--run", run, *score))
    assert (here["seen_offset"], here["setting"]) == (0.1, "inductive")
    none = json.loads(c2s("eval", "--run", run, *score, "--seen-offset", "0"))
    assert none["seen_offset"] == 0.0
    elsewhere = json.loads(c2s("eval", "--run", run, *score, "--vocabulary", "names"))
    assert (elsewhere["seen_offset"], elsewhere["setting"]) == (0.0, "cross-dataset, inductive")
    folded = json.loads(c2s("eval", "--run", run, *score, "--folded"))
    assert folded["sIoU"] == here["sIoU"]

    c2s("train", "--self-train", run, "--iterations", 1)
    later = json.loads(c2s("eval", "--run", tmp_path / "runs/rc-st", *score))
    assert (later["seen_offset"], later["setting"]) == (0.0, "transductive")
    frozen_later = load_file(tmp_path / "runs/rc-st/frozen.safetensors")
    assert all(torch.equal(frozen_later[k], v) for k, v in frozen.items())

    table = ("ablate", "--cache", cache.path, "--method", "clip-rc", "--table", 5, "--limit", 2)
    facts = json.loads(c2s(*table, "--out", "tables", *STEPS, "--set", "method.ffn=32", "--json"))
    (grid,) = facts["grids"]
    assert [row["name"] for row in grid["rows"]] == [
        "decoder alone",
        "bridge",
        "bridge, alignment",
        "all",
    ]
    assert [row["paper"]["hIoU"] for row in grid["rows"]] == [84.3, 85.4, 87.4, 88.4]
    assert facts["failed"] == {}
