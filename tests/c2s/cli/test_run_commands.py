"""`c2s train` and `students` through the command line, and what commands of a run refuse, on a tiny cache."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from PIL import Image
from tiny_datasets import EVAL, Tiny
from tiny_runs import FAST
from typer.testing import CliRunner

from c2s.cli import app
from c2s.runs.checkpoint import RunError, saved_step
from c2s.runs.folder import read_config
from c2s.runs.sealed import read_sealed, write_sealed
from c2s.students.registry import CodeError
from c2s_cache.errors import C2SError, ConfigError


@pytest.fixture(scope="module")
def proposed(tiny_cache, tmp_path_factory):
    """A first run, with nothing said but how long."""
    torch.set_num_threads(1)
    runs = tmp_path_factory.mktemp("proposed")
    done = CliRunner().invoke(
        app, ["train", "--cache", str(tiny_cache), "--iterations", "2", "--runs", str(runs)]
    )
    assert done.exit_code == 0, done.exception
    assert "chosen: student segformer-b0: there is no GPU" in done.stderr
    return runs / "segformer-b0-tiny-seed0"


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU keeps the paper's defaults")
def test_a_first_run_fits_the_machine_and_says_why(proposed, tiny_cache, tmp_path, invoke):
    config = read_config(proposed)
    assert (config.student, config.batch_size, config.total) == ("segformer-b0", 8, 2)
    assert [sentence.split()[0] for sentence in config.proposed] == [
        "student",
        "workers",
        "batch_size",
    ]
    anew = ("train", "--config", proposed / "config.yaml", "--runs", tmp_path, "--name", "again")
    invoke(*anew)
    assert read_config(tmp_path / "again").proposed == config.proposed
    same = (run / "checkpoint/student.safetensors" for run in (proposed, tmp_path / "again"))
    assert len({file.read_bytes() for file in same}) == 1


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU keeps the paper's defaults")
def test_a_plan_trains_nothing(tiny_cache, tmp_path, invoke, monkeypatch):
    where = ("train", "--cache", tiny_cache, "--runs", tmp_path / "runs", "--plan")
    assert "segformer-b0, 275 iterations of 8 images at 32 px, on a CPU: " in invoke(*where)
    said = invoke(*where, *FAST)
    assert "segformer-b0, 2 iterations of 2 images at 32 px" in said
    said = invoke(*where, "--batch-size", "4", "--set", "workers=1")
    assert "segformer-b0, 550 iterations of 4 images" in said
    facts = json.loads(invoke(*where, "--json"))
    assert (facts["settings"]["batch_size"], facts["fits"]) == (8, True)
    assert facts["bytes"] < facts["available_bytes"]
    with pytest.raises(ConfigError, match="--json has no effect without --plan"):
        invoke("train", "--cache", tiny_cache, "--json")
    monkeypatch.setattr("c2s.training.trial._available", lambda device: 1 << 20)
    with pytest.raises(ConfigError, match=r"would hold .* GiB of 0\.0 GiB memory"):
        invoke(*where)
    assert not (tmp_path / "runs").exists()


def test_self_training_through_the_command_line(trained, tiny_dataset, tmp_path, invoke):
    said = invoke("train", "--self-train", trained, "--runs", tmp_path)
    path = tmp_path / f"{trained.name}-st"
    assert f"{path} is complete" in said
    facts = json.loads(invoke("eval", "--run", path, "--dataset", "tiny", *EVAL))
    assert facts["setting"] == "transductive"
    assert "ours, transductive" in invoke("eval", "--run", path, "--dataset", "tiny", *EVAL[:-1])


@pytest.mark.slow
def test_a_run_is_continued_with_what_may_change(trained, tiny_cache, tmp_path, invoke):
    path = shutil.copytree(trained, tmp_path / "r")
    assert f"{path} is complete" in invoke("train", "--resume", path)
    with pytest.raises(RunError, match="batch_size 2 -> 4"):
        invoke("train", "--resume", path, "--set", "batch_size=4")
    elsewhere = shutil.copytree(tiny_cache, tmp_path / "elsewhere.zarr")
    more = ("--iterations", "3", "--workers", "0", "--cache", elsewhere)
    assert f"{path} is complete" in invoke("train", "--resume", path, *more)
    assert saved_step(path) == 3


def test_a_wrong_setting_is_named(tiny_cache, invoke):
    with pytest.raises(ConfigError, match=r"method\.tua"):
        invoke("train", "--cache", tiny_cache, "--set", "method.tua=1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train",), "needs --cache"),
        (("train", "--resume", "x", "--seed", "1"), "drop --seed"),
        (("train", "--resume", "x", "--overwrite"), "drop --overwrite"),
        (("train", "--resume", "x", "--plan"), "drop --plan"),
        (("train", "--cache", "x", "--seed", "1", "--set", "seed=2"), "both say seed; leave one"),
        (("train", "--resume", "x", "--workers", "1", "--set", "workers=2"), "both say workers"),
        (("train", "--cache", "nowhere.zarr"), "nowhere.zarr is not a c2s cache"),
        (("predict", "a.png", "--run", "r", "--classes", "a,a", "--out", "o"), "distinct"),
        (
            ("predict", "a.png", "b/a.jpg", "--run", "r", "--classes", "a", "--out", "o"),
            r"a\.png and b/a\.jpg would both be written as a\.png",
        ),
        (("eval", "--run", "nowhere", "--dataset", "shapes"), "not a run folder"),
    ],
)
def test_wrong_use_is_one_sentence(arguments, message, invoke):
    with pytest.raises(C2SError, match=message):
        invoke(*arguments)


def test_students_show_has_the_promised_keys(invoke):
    facts = json.loads(invoke("students", "show", "segformer-b0", "--json"))
    assert {"parameters", "training_parameters", "gflops", "input_size"} <= set(facts)
    assert facts["input_size"] == 512


@pytest.mark.slow
def test_students_list_counts_them(invoke, monkeypatch):
    names = ("segnext-b", "shapes-net")
    monkeypatch.setattr("c2s.students.registry.NAMES", names)
    students = json.loads(invoke("students", "list", "--json"))
    assert tuple(facts["name"] for facts in students) == names
    assert students[0] == json.loads(invoke("students", "show", "segnext-b", "--json"))
    table = [line.split() for line in invoke("students", "list").splitlines()]
    assert table[1] == ["segnext-b", "27.82", "M", "32.03", "M", "32.86"]
    assert len(table) == 3


@pytest.mark.parametrize(
    "command",
    [
        ["eval", "--run", "RUN", "--dataset", "tiny"],
        ["predict", "x.png", "--run", "RUN", "--out", "OUT"],
        ["fold", "--run", "RUN", "--out", "OUT"],
        ["bench", "infer", "--run", "RUN"],
        ["train", "--resume", "RUN"],
        ["train", "--self-train", "RUN"],
        ["train", "--config", "RUN/config.yaml"],
        ["ablate", "--cache", "CACHE", "--grid", "GRID", "--dataset", "shapes"],
    ],
)
def test_no_file_has_code_called_that_nobody_asked_for(
    command, trained, tiny_cache, tmp_path, monkeypatch
):
    (tmp_path / "spy.py").write_text("raise SystemExit(77)")
    monkeypatch.syspath_prepend(tmp_path)
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    config, state = run / "config.yaml", run / "checkpoint" / "state.json"
    config.write_text(config.read_text().replace("segformer-b0", "python:spy:f"))
    facts = json.dumps(read_sealed(state)).replace("segformer-b0", "python:spy:f")
    write_sealed(state, json.loads(facts))
    grid = tmp_path / "g.yaml"
    grid.write_text("rows: [{name: a}]\nstudents: ['python:spy:f']\n")
    Image.new("RGB", (40, 40)).save(tmp_path / "x.png")
    places = {"RUN": run, "OUT": tmp_path / "out", "CACHE": tiny_cache, "GRID": grid}
    words = [word.replace("x.png", str(tmp_path / "x.png")) for word in command]
    for name, place in places.items():
        words = [word.replace(name, str(place)) for word in words]
    monkeypatch.setattr("c2s.datasets.load_dataset", lambda *_: Tiny())
    refused = CliRunner().invoke(app, words)
    assert isinstance(refused.exception, CodeError), refused.exception
    assert "module spy" in str(refused.exception)
    assert "--allow-code" in str(refused.exception)


def test_outputs_that_cannot_be_written_are_refused_before_any_work(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("c2s.datasets.load_dataset", lambda *_: Tiny())
    (tmp_path / "d.json").mkdir()
    score = ["eval", "--run", str(trained), "--dataset", "tiny", "--out"]
    for out, message in (("missing/x.json", "there is no folder"), ("d.json", "is a folder")):
        with monkeypatch.context() as patch:
            patch.setattr("c2s.runs.run.open_run", None)  # not even opened
            refused = CliRunner().invoke(app, [*score, str(tmp_path / out)])
        assert isinstance(refused.exception, ConfigError)
        assert message in str(refused.exception)
    Image.new("RGB", (40, 40)).save(tmp_path / "x.png")
    (tmp_path / "out" / "x_overlay.png").mkdir(parents=True)
    words = ["predict", str(tmp_path / "x.png"), "--run", str(trained), "--out"]
    refused = CliRunner().invoke(app, [*words, str(tmp_path / "out")])
    assert isinstance(refused.exception, ConfigError)
    assert "x_overlay.png is a folder" in str(refused.exception)
    assert not (tmp_path / "out" / "x.png").exists()


def test_a_folded_model_is_no_run_and_says_what_takes_it(trained, tmp_path):
    assert (
        CliRunner()
        .invoke(app, ["fold", "--run", str(trained), "--out", str(tmp_path / "m")])
        .exit_code
        == 0
    )
    refused = CliRunner().invoke(app, ["eval", "--run", str(tmp_path / "m"), "--dataset", "shapes"])
    assert "is a folded model, not a run" in str(refused.exception)
    assert "c2s predict" in str(refused.exception)


@pytest.mark.slow
def test_a_recipe_says_what_of_its_cache_is_another(tiny_cache, tmp_path):
    words = ["train", "--cache", str(tiny_cache), *FAST, "--runs", str(tmp_path), "--recipe"]
    done = CliRunner().invoke(app, [*words, "best"])
    assert done.exit_code == 0, done.exception
    assert "masks.threshold=0.6 (here not recorded)" in done.stderr
    assert "--set masks.threshold=0.6" in done.stderr
    done = CliRunner().invoke(app, [*words, "paper", "--name", "other"])
    assert "note:" not in done.stderr
