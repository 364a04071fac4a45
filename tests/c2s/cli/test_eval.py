"""`c2s eval` through the command line, of a run on a tiny cache."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tiny_datasets import EVAL, Other, Tiny
from typer.testing import CliRunner

import c2s.datasets
from c2s.cli import app
from c2s.datasets import descriptor, load_dataset
from c2s.deploy.fold import fold_run
from c2s.evaluation.evaluate import predictor
from c2s.evaluation.vocabulary import foreign_vocabulary
from c2s.methods.zeroseg.config import ZeroSegConfig
from c2s.runs.run import open_run
from c2s_cache.errors import C2SError, ConfigError


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


@pytest.mark.parametrize("dataset", ["tiny", "shapes", "shapes-crowded"])
def test_what_is_no_data_set_is_tested_as_what_it_was_trained_on(trained, dataset, monkeypatch):
    """ZeroSeg takes twice its training's views up to the data set's own: it would see Shapes' scenes enlarged."""
    run = open_run(trained)
    run = replace(run, info=run.info.model_copy(update={"dataset": dataset}))
    method, size = type(run.config.method), run.config.image_size or run.info.view_size
    seen = []

    def protocol(self, data, size):
        seen.append(data)
        return ZeroSegConfig().protocol(data, size)

    monkeypatch.setattr(method, "protocol", protocol)
    windows = predictor(run, device="cpu").crop, fold_run(run).config.crop
    want = {"tiny": descriptor.TestProtocol()}.get(dataset) or load_dataset(dataset).protocol
    assert seen == [want, want]
    assert windows == (min(2 * size, max(want.view_size, size)),) * 2
