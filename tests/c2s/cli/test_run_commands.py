"""`c2s train`, `eval` and `predict` through the command line, on a tiny cache."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import c2s.datasets
from c2s.cli import app
from c2s.datasets import descriptor
from c2s.evaluation.evaluate import predictor
from c2s.evaluation.vocabulary import foreign_vocabulary
from c2s.runs.checkpoint import RunError, saved_step
from c2s.runs.folder import read_config
from c2s.runs.run import open_run
from c2s.runs.sealed import read_sealed, write_sealed
from c2s.students.registry import CodeError
from c2s_cache.errors import C2SError, ConfigError

FAST = ("--student", "segformer-b0", "--iterations", "2", "--batch-size", "2", "--workers", "0")


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


@dataclass
class Item:
    id: str
    classes: int = 6

    def read(self):
        rng = np.random.default_rng(int(self.id))
        labels = rng.integers(0, self.classes, (40, 50)).astype(np.uint8)
        return rng.integers(0, 256, (40, 50, 3)).astype(np.uint8), labels


class Tiny:
    name = "tiny"
    protocol = descriptor.TestProtocol(view_size=32, stride=27, short_side=32, background=0)
    classes = ("sky", "grass", "cat", "cow", "road", "tree")
    unseen = (3, 5)

    prompts = ("the sky", *classes[1:])

    def split(self, name):
        return [Item("0"), Item("1"), Item("2")]


class Other(Tiny):
    """Another data set: two classes of the run, one that it does not know."""

    name = "other"
    protocol = descriptor.TestProtocol(view_size=32, stride=27, short_side=32)
    classes = prompts = ("cat", "cow", "zebra")
    names = (("cat",), ("cow",), ("zebra",))

    def split(self, name):
        return [Item("0", 3), Item("1", 3)]


@pytest.fixture
def tiny_dataset(monkeypatch):
    monkeypatch.setattr(c2s.datasets, "load_dataset", lambda name, root=None: Tiny())


@pytest.mark.parametrize("mode", ["slide", "whole"])
def test_eval_prints_the_promised_keys(trained, tiny_dataset, mode, tmp_path, invoke):
    out = tmp_path / "result.json"
    text = invoke(
        "eval",
        "--run",
        trained,
        "--dataset",
        "tiny",
        "--json",
        "--mode",
        mode,
        "--out",
        out,
        "--limit",
        2,
        "--device",
        "cpu",
    )
    facts = json.loads(text)
    assert {"sIoU", "uIoU", "hIoU", "pAcc", "mIoU", "mAcc", "classes"} <= set(facts)
    assert 0 <= facts["pAcc"] <= 100
    assert facts["images"] == 2
    assert [c["name"] for c in facts["classes"] if c["unseen"]] == ["cow", "tree"]
    written = json.loads(out.read_text())
    assert written["classes"] == facts["classes"]


EVAL = ("--limit", 2, "--device", "cpu", "--mode", "whole", "--json")


def test_eval_scores_several_offsets_from_one_pass(trained, tiny_dataset, invoke):
    tiny = ("eval", "--run", trained, "--dataset", "tiny", *EVAL)
    swept = json.loads(invoke(*tiny, "--seen-offset", "0.1,0"))
    alone = json.loads(invoke(*tiny, "--seen-offset", "0.1"))
    assert swept["seen_offset"] == alone["seen_offset"] == 0.1
    assert swept["classes"] == alone["classes"]
    assert [row["seen_offset"] for row in swept["sweep"]] == [0.1, 0.0]
    assert swept["sweep"][1]["hIoU"] == json.loads(invoke(*tiny))["hIoU"]
    with pytest.raises(ConfigError, match="--seen-offset 'all': expected"):
        invoke(*tiny, "--seen-offset", "all")


def test_eval_leaves_a_background_class_out_if_asked(trained, tiny_dataset, invoke):
    facts = json.loads(
        invoke("eval", "--run", trained, "--dataset", "tiny", *EVAL, "--background", "ignored")
    )
    assert facts["classes"][0]["iou"] is None
    assert facts["config"]["background"] == "ignored"


@pytest.fixture
def other_dataset(monkeypatch):
    monkeypatch.setattr(c2s.datasets, "load_dataset", lambda name, root=None: Other())


def test_eval_across_data_sets_with_embeddings_from_a_file(
    trained, other_dataset, tmp_path, invoke
):
    np.save(tmp_path / "text.npy", np.random.default_rng(0).normal(size=(3, 16)))
    across = ("eval", "--run", trained, "--dataset", "other", *EVAL)
    facts = json.loads(invoke(*across, "--vocabulary", tmp_path / "text.npy"))
    assert facts["setting"] == "cross-dataset, inductive"
    assert [c["unseen"] for c in facts["classes"]] == [False, True, True]  # cow: unseen in training
    assert facts["paper"] is None
    with pytest.raises(ConfigError, match=r"Class 0 of other is 'cat'.*--vocabulary"):
        invoke(*across)
    with pytest.raises(ConfigError, match="no background class"):
        invoke(*across, "--vocabulary", tmp_path / "text.npy", "--background", "ignored")


def test_self_training_through_the_command_line(trained, tiny_dataset, tmp_path, invoke):
    said = invoke("train", "--self-train", trained, "--runs", tmp_path)
    path = tmp_path / f"{trained.name}-st"
    assert f"{path} is complete" in said
    facts = json.loads(invoke("eval", "--run", path, "--dataset", "tiny", *EVAL))
    assert facts["setting"] == "transductive"
    assert "ours, transductive" in invoke("eval", "--run", path, "--dataset", "tiny", *EVAL[:-1])


def test_a_run_is_continued_with_what_may_change(trained, tiny_cache, tmp_path, invoke):
    path = shutil.copytree(trained, tmp_path / "r")
    assert f"{path} is complete" in invoke("train", "--resume", path)
    with pytest.raises(RunError, match="batch_size 2 -> 4"):
        invoke("train", "--resume", path, "--set", "batch_size=4")
    elsewhere = shutil.copytree(tiny_cache, tmp_path / "elsewhere.zarr")
    more = ("--iterations", "3", "--workers", "0", "--cache", elsewhere)
    assert f"{path} is complete" in invoke("train", "--resume", path, *more)
    assert saved_step(path) == 3


def test_eval_shows_a_table(trained, tiny_dataset, invoke):
    text = invoke("eval", "--run", trained, "--dataset", "tiny", "--limit", 1, "--device", "cpu")
    assert "hIoU" in text
    assert "unseen" in text


def test_eval_refuses_another_dataset(trained, invoke):
    with pytest.raises(ConfigError, match="Class 0 of shapes"):
        invoke("eval", "--run", trained, "--dataset", "shapes")


def test_eval_on_a_data_set_of_many_classes(trained, tmp_path, invoke):
    """Label maps of 16 bits, in which 255 is a class, from files to the score."""
    classes = [f"c{i}" for i in range(300)]
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (tmp_path / "many" / part).mkdir(parents=True)
    (tmp_path / "many" / "classes.yaml").write_text(json.dumps({"classes": classes}))
    picture = rng.integers(0, 256, (4, 6, 3)).astype(np.uint8).repeat(10, 0).repeat(10, 1)
    Image.fromarray(picture).save(tmp_path / "many/images/a.png")
    np.save(tmp_path / "text.npy", rng.normal(size=(300, 16)))
    opened, rows = open_run(trained), np.load(tmp_path / "text.npy")
    words = foreign_vocabulary(opened, [(c,) for c in classes], rows)
    protocol = descriptor.TestProtocol()
    model = predictor(opened, words, device="cpu", protocol=protocol)
    labels = model.predict(picture).astype(np.uint16)
    labels[:20] = np.where(labels[:20] == 255, 256, 255)  # wrong, and of the class 255
    labels[:5] = 65535
    Image.fromarray(labels).save(tmp_path / "many/masks/a.png")
    source = ("--dataset", tmp_path / "many", "--split", "train", "--device", "cpu", "--json")
    vocabulary = ("--vocabulary", tmp_path / "text.npy")
    facts = json.loads(invoke("eval", "--run", trained, *source, *vocabulary))
    assert facts["pAcc"] == pytest.approx(100 * 20 / 35, abs=1e-3)
    assert facts["classes"][255]["iou"] == 0
    assert facts["uIoU"] > 0
    assert facts["sIoU"] is None


def test_eval_takes_names_for_the_classes_from_a_list(trained, other_dataset, tmp_path, invoke):
    """The data set's third class is known to the run by another name, which was annotated."""
    (tmp_path / "names.yaml").write_text("- [cat, grass]\n- cow\n- sky\n")
    across = ("eval", "--run", trained, "--dataset", "other", *EVAL, "--vocabulary")
    facts = json.loads(invoke(*across, f"@{tmp_path / 'names.yaml'}"))
    assert [(c["name"], c["unseen"]) for c in facts["classes"]] == [
        ("cat", False),
        ("cow", True),
        ("zebra", False),
    ]
    mean = json.loads(invoke(*across, f"@{tmp_path / 'names.yaml'}", "--synonyms", "mean"))
    assert mean["config"]["synonyms"] == "mean"
    (tmp_path / "names.yaml").write_text("- cat\n")
    with pytest.raises(ConfigError, match="names 1 classes; other has 3"):
        invoke(*across, f"@{tmp_path / 'names.yaml'}")


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


def test_where_the_disk_is_full_the_result_is_shown_and_the_file_before_stays(
    trained, tmp_path, monkeypatch
):
    monkeypatch.setattr("c2s.datasets.load_dataset", lambda *_: Tiny())
    (tmp_path / "r.json").write_text("before")

    def full(self, content):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    out = tmp_path / "r.json"
    done = CliRunner().invoke(
        app, ["eval", "--run", str(trained), "--dataset", "tiny", "--json", "--out", str(out)]
    )
    assert json.loads(done.stdout)["images"] == 3
    assert isinstance(done.exception, C2SError)
    assert "r.json cannot be written (No space left on device)" in str(done.exception)
    assert [f.name for f in tmp_path.iterdir()] == ["r.json"]
    assert out.read_text() == "before"


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


def test_a_recipe_says_what_of_its_cache_is_another(tiny_cache, tmp_path):
    words = ["train", "--cache", str(tiny_cache), *FAST, "--runs", str(tmp_path), "--recipe"]
    done = CliRunner().invoke(app, [*words, "best"])
    assert done.exit_code == 0, done.exception
    assert "masks.threshold=0.6 (here unknown)" in done.stderr
    assert "--set masks.threshold=0.6" in done.stderr
    done = CliRunner().invoke(app, [*words, "paper", "--name", "other"])
    assert "note:" not in done.stderr
