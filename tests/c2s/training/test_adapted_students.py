"""Runs of other libraries' models: they resume exactly and open without what they were made from."""

from __future__ import annotations

import json
import os
import shutil
import signal

import numpy as np
import pytest
import tiny_runs
import torch
from safetensors.torch import load_file
from transformers import SegformerConfig

from c2s.deploy import SegmentationModel, fold_run
from c2s.evaluation.classifier import Classifier
from c2s.evaluation.inference import Predictor
from c2s.runs.run import open_run
from c2s.training import run
from c2s.training.recorder import Recorder

STEPS = 3


def settings(cache, tmp_path, student, name):
    options = {"student": student, "iterations": STEPS, "checkpoint_every": 1, "name": name}
    return tiny_runs.settings(cache, tmp_path / "runs", **options)


@pytest.mark.slow
@pytest.mark.parametrize("library", ["timm", "hf"])
def test_a_run_resumes_exactly_and_opens_anywhere(library, tiny_cache, tmp_path, monkeypatch):
    student = "timm:test_convnext"
    if library == "hf":
        config = SegformerConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1])
        config.save_pretrained(tmp_path / "model")
        student = f"hf:{tmp_path / 'model'}"
    whole = run.train(settings(tiny_cache, tmp_path, student, "whole"))

    recorded = Recorder.on_train_batch_end

    def interrupting(self, trainer, module, *rest):
        recorded(self, trainer, module, *rest)
        if module.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Recorder, "on_train_batch_end", interrupting)
    with pytest.raises(run.Interrupted):
        run.train(settings(tiny_cache, tmp_path, student, "cut"))
    monkeypatch.setattr(Recorder, "on_train_batch_end", recorded)
    shutil.rmtree(tmp_path / "model", ignore_errors=True)
    cut = run.resume(tmp_path / "runs" / "cut")

    first, second = (load_file(p / "checkpoint" / "student.safetensors") for p in (whole, cut))
    assert first.keys() == second.keys()
    assert [k for k in first if not torch.equal(first[k], second[k])] == []
    opened = open_run(cut)
    assert opened.student.architecture == json.loads((cut / "run.json").read_text())["architecture"]
    classifier = Classifier(opened.student, torch.from_numpy(opened.embeddings))
    predictor = Predictor(classifier, opened.info.view_size)
    labels = predictor.predict(np.full((37, 50, 3), 90, np.uint8))
    assert labels.shape == (37, 50)
    fold_run(opened).save_pretrained(tmp_path / "folded")
    folded = SegmentationModel.from_pretrained(tmp_path / "folded").eval()
    images = torch.randn(1, 3, 40, 50)
    with torch.no_grad():
        expected = torch.einsum(
            "bdhw,kd->bkhw", opened.student(images), torch.from_numpy(opened.embeddings)
        )
        torch.testing.assert_close(folded(images), expected, rtol=1e-4, atol=1e-4)


def test_the_run_folder_of_a_model_is_one_folder(tmp_path):
    config = settings(tmp_path / "coco.zarr", tmp_path, "smp:unet/tu-vit_tiny.augreg", None)
    assert config.run_name == "smp-unet-tu-vit_tiny.augreg-coco-seed0"
