"""A student whose features are no linear layer's is deployed with its text embeddings beside it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from tiny_cache import tiny_manifest
from torch import nn

from c2s.deploy import SegmentationModel, fold_run
from c2s.deploy.fold import write_model
from c2s.evaluation.evaluate import predictor
from c2s.evaluation.vocabulary import foreign_vocabulary
from c2s.runs.config import load_config
from c2s.runs.folder import RunInfo
from c2s.runs.run import Run
from c2s.students.base import Student

STUDENT = "python:asked_students:make"


class Queries(Student):
    """Four masks, each with an embedding: a position's score is its masks' best match."""

    def __init__(self, dim):
        super().__init__()
        self.dim = dim
        self.masks = nn.Conv2d(3, 4, 4, stride=4)
        self.queries = nn.Parameter(torch.randn(4, dim))

    def classify(self, images, text):
        match = (self.queries @ text.T).softmax(1)
        return torch.einsum("bqhw,qk->bkhw", self.masks(images).sigmoid(), match)


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A run of such a student, of five classes."""
    (tmp_path / "asked_students.py").write_text("from test_asked import Queries as make\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(str(__file__).rpartition("/")[0])
    info = RunInfo(
        dataset="things",
        classes=tuple("abcde"),
        unseen=(2,),
        view_size=32,
        teacher=tiny_manifest().teacher,
        fingerprints={},
        versions={},
    )
    torch.manual_seed(0)
    rows = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0][:5].astype(np.float32)
    config = load_config(cache=tmp_path / "x.zarr", student=STUDENT)
    return Run(tmp_path, config, info, 1, True, rows, Queries(8).eval())


def picture():
    coarse = np.random.default_rng(0).integers(0, 256, (5, 8, 3)).astype(np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)


def test_what_is_written_and_read_back_predicts_what_the_run_does(asked, tmp_path):
    model = fold_run(asked)
    write_model(model, tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert (config["kind"], config["dim"]) == ("asked", 8)
    read = SegmentationModel.from_pretrained(tmp_path / "m", allow_code=True)
    with torch.inference_mode():
        images = torch.randn(2, 3, 32, 48)
        want = asked.student.classify(images, torch.from_numpy(asked.embeddings))
        assert torch.equal(read(images), want)
    labels = read.segment(picture())
    np.testing.assert_array_equal(labels, predictor(asked, device="cpu").predict(picture()))
    assert len(np.unique(labels)) > 1
    card = ModelCard.load(tmp_path / "m" / "README.md").text
    assert "embeddings of its classes are tensors of the model" in card
    assert "the student's own score" in card


def test_of_several_names_the_mean_is_kept_and_the_names_are_told(asked):
    names = (("x", "y"), ("a",))
    words = foreign_vocabulary(asked, names, asked.embeddings[:3])
    model = fold_run(asked, words)
    assert model.config.names == names
    assert model.config.classes == ("x", "a")
    mean = asked.embeddings[:2].mean(0)
    np.testing.assert_allclose(model.student.text[0], mean / np.linalg.norm(mean), atol=1e-6)


@pytest.mark.slow
def test_it_is_exported_where_torch_follows(asked, tmp_path):
    write_model(fold_run(asked), tmp_path / "m", export=True)
    program = torch.export.load(tmp_path / "m" / "model.pt2").module()
    images = torch.randn(2, 3, 64, 96)
    want = asked.student.classify(images, torch.from_numpy(asked.embeddings))
    torch.testing.assert_close(program(images), want, atol=1e-5, rtol=1e-4)
