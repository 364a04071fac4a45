"""`c2s fold`, and what segments and scores with its result."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_cache import write_cache

import c2s.datasets
from c2s.cli.vocabulary import run_vocabulary
from c2s.datasets import descriptor
from c2s.deploy import SegmentationModel
from c2s.deploy.info import ModelError
from c2s.evaluation.evaluate import predictor
from c2s.runs.config import load_config
from c2s.runs.run import open_run
from c2s.training import run
from c2s_cache.errors import ConfigError


@pytest.fixture(scope="module")
def trained(tiny_cache, tmp_path_factory):
    torch.set_num_threads(1)
    options = {"student": "shapes-net", "weights": "random", "iterations": 2, "batch_size": 4}
    place = {"runs": tmp_path_factory.mktemp("fold"), "workers": 0, "accelerator": "cpu"}
    return run.train(load_config(cache=tiny_cache, **options, **place))


def patches():
    """A picture, uint8 [40, 70, 3]."""
    colours = np.random.default_rng(0).integers(0, 256, (4, 7, 3)).astype(np.uint8)
    return colours.repeat(10, 0).repeat(10, 1)


def test_fold_writes_a_model_that_predict_takes(trained, tmp_path, invoke):
    out = tmp_path / "model"
    said = invoke("fold", "--run", trained, "--out", out)
    assert "shapes-net, 6 classes (2 never annotated), 0.31 M parameters" in said
    picture = tmp_path / "a.png"
    Image.fromarray(patches()).save(picture)
    invoke("predict", picture, "--run", out, "--out", tmp_path / "labels", "--device", "cpu")
    labels = np.asarray(Image.open(tmp_path / "labels" / "a.png"))
    model = SegmentationModel.from_pretrained(out)
    np.testing.assert_array_equal(labels, model.segment(Image.open(picture)))
    with pytest.raises(ConfigError, match="drop --classes"):
        invoke("predict", picture, "--run", out, "--classes", "cow", "--out", tmp_path / "x")
    with pytest.raises(ModelError, match="--overwrite"):
        invoke("fold", "--run", trained, "--out", out)
    invoke("fold", "--run", trained, "--out", out, "--overwrite", "--license", "mit")
    assert "license: mit" in (out / "README.md").read_text()


def test_predict_without_classes_takes_those_of_the_run(trained, tmp_path, invoke):
    picture = tmp_path / "a.png"
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(picture)
    invoke("predict", picture, "--run", trained, "--out", tmp_path / "own", "--device", "cpu")
    names = ("--classes", "sky, grass, cat, cow, road, tree")
    invoke("predict", picture, "--run", trained, *names, "--out", tmp_path / "named")
    own, named = (Image.open(tmp_path / f / "a.png") for f in ("own", "named"))
    np.testing.assert_array_equal(np.asarray(own), np.asarray(named))


def test_fold_takes_text_embeddings_of_a_file_or_a_cache(trained, tmp_path, invoke):
    np.save(tmp_path / "text.npy", np.eye(2, 16))
    fold = ("fold", "--run", trained, "--out", tmp_path / "m", "--overwrite", "--vocabulary")
    invoke(*fold, tmp_path / "text.npy", "--classes", "a, sky")
    config = SegmentationModel.from_pretrained(tmp_path / "m").config
    assert (config.classes, config.unseen) == (("a", "sky"), (0,))
    cache = write_cache(tmp_path / "other.zarr", rows=4, seed=5)
    invoke(*fold, cache)
    assert len(SegmentationModel.from_pretrained(tmp_path / "m").config.classes) == 6
    with pytest.raises(ConfigError, match="drop --classes"):
        invoke(*fold, cache, "--classes", "a")
    with pytest.raises(ConfigError, match="give them in its order with --classes"):
        invoke(*fold, tmp_path / "text.npy")


def test_a_run_that_knows_no_class_is_told_some(trained):
    opened = open_run(trained)
    info = opened.info.model_copy(update={"classes": (), "prompts": (), "unseen": ()})
    free = replace(opened, info=info, embeddings=opened.embeddings[:0])
    assert free.vocabulary.classes == ()
    with pytest.raises(ConfigError, match=r"trained without class names; name some with --classes"):
        run_vocabulary(free, None)


def test_fold_without_a_run(tmp_path, c2s):
    code, _, err = c2s("fold", "--run", tmp_path / "none", "--out", tmp_path / "m")
    assert code == 1
    assert "is not a run folder" in err


def test_scores_of_the_folded_model_reach_its_card(trained, tmp_path, monkeypatch, invoke):
    image = patches()
    labels = predictor(open_run(trained), device="cpu").predict(image).astype(np.uint8)
    tiny = SimpleNamespace(
        name="tiny",
        classes=("sky", "grass", "cat", "cow", "road", "tree"),
        protocol=descriptor.TestProtocol(view_size=32, stride=27, short_side=32),
        split=lambda name: [SimpleNamespace(id="0", read=lambda: (image, labels))],
    )
    monkeypatch.setattr(c2s.datasets, "load_dataset", lambda name, root=None: tiny)
    score = ("eval", "--run", trained, "--dataset", "tiny", "--device", "cpu", "--json")
    file = trained / "eval-folded.json"
    try:
        facts = json.loads(invoke(*score, "--folded", "--out", file))
        assert facts["folded"]
        invoke("fold", "--run", trained, "--out", tmp_path / "m")
    finally:
        file.unlink(missing_ok=True)
    row = f"| tiny | val | inductive | logits | slide | 1 | {facts['sIoU']:.1f} |"
    assert row in (tmp_path / "m" / "README.md").read_text()
    model = SegmentationModel.from_pretrained(tmp_path / "m")
    right = float((model.segment(image) == labels).mean())
    assert right < 1  # some pixel between two positions of the feature map
    assert facts["pAcc"] == pytest.approx(100 * right, abs=1e-3)
    assert json.loads(invoke(*score))["pAcc"] == 100
    with pytest.raises(ConfigError, match="acts on cosines"):
        invoke(*score, "--folded", "--seen-offset", "0.1")
