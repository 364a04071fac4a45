"""A run of which a file is damaged is refused in one sentence, by whatever opens it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal

import pytest
import tiny_runs
from damages import damage, damages

from c2s.deploy import fold_run
from c2s.runs.checkpoint import RunError
from c2s.runs.config import load_config
from c2s.runs.run import open_run
from c2s.runs.sealed import write_sealed
from c2s.training import run
from c2s.training.recorder import Recorder
from c2s.training.self_training import inherited
from c2s_cache.errors import C2SError

FILES = (
    "config.yaml",
    "run.json",
    "text.safetensors",
    "checkpoint/state.json",
    "checkpoint/student.safetensors",
    "checkpoint/state.safetensors",
    "halfway/student.safetensors",
    "metrics.jsonl",
)
CASES = [(file, how) for file in FILES for how in damages(file)]


def settings(cache, runs, **more):
    options = {"student": "shapes-net", "iterations": 4, "checkpoint_every": 2, "lr": 1e-3}
    return tiny_runs.settings(cache, runs, {"method": {"heads": 4}}, **(options | more))


@pytest.fixture(scope="module")
def cut(tiny_cache, tmp_path_factory):
    """A run that stopped after its third iteration."""
    folder = tmp_path_factory.mktemp("damaged")
    recorded = Recorder.on_train_batch_end

    def interrupting(self, trainer, module, *rest):
        recorded(self, trainer, module, *rest)
        if module.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "on_train_batch_end", interrupting)
        with pytest.raises(run.Interrupted):
            run.train(settings(tiny_cache, folder, name="cut"))
    return folder / "cut"


@pytest.fixture
def tried(cut, tmp_path):
    """Do something with the run under every damage; what came of it, by file and damage."""

    def on(command, files=FILES):
        found = {}
        for file, how in CASES:
            if file not in files:
                continue
            path = tmp_path / "r"
            shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(cut, path)
            damage(path / file, how)
            try:
                command(path)
                found[file, how] = None
            except C2SError as error:
                found[file, how] = str(error)
            except Exception as error:
                found[file, how] = error
        wrong = {k: repr(v)[:200] for k, v in found.items() if isinstance(v, Exception)}
        assert not wrong, json.dumps({str(k): v for k, v in wrong.items()}, indent=1)
        long = {k: v for k, v in found.items() if v is not None and (len(v) > 500 or "\n" in v)}
        assert not long, json.dumps({str(k): v for k, v in long.items()}, indent=1)
        mute = {k: v for k, v in found.items() if v and not re.search(r"c2s train --|--name", v)}
        assert not mute, json.dumps({str(k): v for k, v in mute.items()}, indent=1)
        return {case for case, said in found.items() if said is None}

    return on


@pytest.mark.slow
def test_evaluation_and_folding(tried):
    accepted = tried(lambda path: fold_run(open_run(path)))
    needed = {"config.yaml", "run.json", "text.safetensors"}
    needed |= {"checkpoint/state.json", "checkpoint/student.safetensors"}
    assert not [case for case in accepted if case[0] in needed]


EDITS = {
    "dataset": lambda name: name + "2",
    "classes": lambda names: names[::-1],
    "unseen": lambda ids: [0, *ids],
    "view_size": lambda pixels: 2 * pixels,
    "prompts": lambda names: [*names, "more"],
    "teacher": lambda facts: facts | {"name": "another"},
    "teacher_weights": lambda _: "elsewhere",
}


@pytest.mark.parametrize("key", EDITS)
def test_an_edited_run_is_not_believed(cut, tmp_path, key):
    """Each of them is a value that such a file may have, and would give figures or names that mean something else."""
    path = shutil.copytree(cut, tmp_path / "r")
    file = path / "run.json"
    facts = json.loads(file.read_text())
    file.write_text(json.dumps(facts | {key: EDITS[key](facts[key])}))
    for use in (open_run, run.resume):
        with pytest.raises(
            RunError, match=r"run\.json is damaged or was edited\. Train it again: "
        ):
            use(path)
    write_sealed(file, {k: v for k, v in facts.items() if k != "digest"})
    open_run(path)


@pytest.mark.slow
def test_a_self_training(tried, tiny_cache, tmp_path):
    def start(path):
        run.build_module(load_config(None, (), inherited(path), self_train=path))

    accepted = tried(start, ("config.yaml", "run.json", "halfway/student.safetensors"))
    assert not accepted


@pytest.mark.slow
def test_a_new_run_of_that_name(tried, tiny_cache):
    def start(path):
        run.train(settings(tiny_cache, path.parent, name=path.name))

    assert not tried(start)


def test_text_embeddings_come_back_from_the_cache(cut, tmp_path):
    path = shutil.copytree(cut, tmp_path / "r")
    before = (path / "text.safetensors").read_bytes()
    for how in ("missing", "flipped"):
        damage(path / "text.safetensors", how)
        with pytest.raises(C2SError, match=rf"text\.safetensors .*: c2s train --resume {path}"):
            open_run(path)
        run.resume(path)
        assert (path / "text.safetensors").read_bytes() == before
        open_run(path)


@pytest.mark.slow
def test_resuming(tried):
    accepted = tried(run.resume)
    assert {file for file, _ in accepted} <= {
        "metrics.jsonl",
        "text.safetensors",
        "halfway/student.safetensors",
    }
