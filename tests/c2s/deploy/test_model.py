"""The folded model on the terms of the Hugging Face hub: saved, read back, pushed, described."""

from __future__ import annotations

import json
import os
import re

import huggingface_hub.hub_mixin
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file

from c2s.deploy import SegmentationModel, fold_run
from c2s.deploy.card import model_card
from c2s.deploy.info import ModelError, Scores
from c2s.evaluation.evaluate import predictor
from c2s.students.registry import CodeError
from c2s_cache.errors import ConfigError, UnreadableImage

FILES = ["README.md", "config.json", "model.safetensors"]


@pytest.fixture
def model(opened):
    return fold_run(opened)


@pytest.fixture
def saved(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def picture():
    """uint8 [40, 70, 3], plain patches."""
    patches = np.random.default_rng(0).integers(0, 256, (4, 7, 3)).astype(np.uint8)
    return patches.repeat(10, 0).repeat(10, 1)


def test_what_is_saved_is_what_is_read(model, saved):
    read = SegmentationModel.from_pretrained(saved)
    assert read.config == model.config
    assert not read.training
    ours, theirs = model.state_dict(), read.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert load_file(saved / "model.safetensors").keys() == model.student.state_dict().keys()
    again = saved.parent / "again"
    read.save_pretrained(again)
    assert sorted(f.name for f in saved.iterdir()) == FILES
    assert all((again / f).read_bytes() == (saved / f).read_bytes() for f in FILES)


@pytest.mark.parametrize("mode", ["slide", "whole"])
def test_a_picture_is_segmented_at_its_own_size(model, opened, mode):
    image = picture()
    labels = model.segment(image, mode)
    assert (labels.shape, labels.dtype) == ((40, 70), np.int64)
    np.testing.assert_array_equal(labels, model.segment(Image.fromarray(image), mode))
    protocol = predictor(opened, mode=mode, device="cpu", classifier=model)
    np.testing.assert_array_equal(labels, protocol.predict(image))
    assert len(np.unique(labels)) > 1


def test_other_pixels_than_bytes_are_scaled_or_refused(model):
    image = picture()[..., 0]
    deep = Image.fromarray(image.astype(np.uint16) << 8)
    np.testing.assert_array_equal(
        model.segment(deep), model.segment(np.repeat(image[..., None], 3, 2))
    )
    for wrong in (image, picture() / 255, picture().astype(np.uint16)):
        with pytest.raises(ModelError, match=r"segment takes uint8 RGB \[H, W, 3\], got "):
            model.segment(wrong)
    with pytest.raises(UnreadableImage, match="fractions"):
        model.segment(Image.fromarray(image / np.float32(255)))


def test_pushing_uploads_the_three_files(model, monkeypatch):
    calls = []

    class Hub:
        def __init__(self, token=None):
            calls.append(("token", token))

        def create_repo(self, repo_id, private, exist_ok):
            calls.append(("create", repo_id, private))
            return type("Url", (), {"repo_id": repo_id})

        def upload_folder(self, repo_id, folder_path, **more):
            calls.append(("upload", repo_id, sorted(f.name for f in folder_path.iterdir())))
            read = SegmentationModel.from_pretrained(folder_path)
            calls.append(("config", read.config))
            return "a commit"

    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", Hub)
    assert model.push_to_hub("somebody/model", private=True, token="x") == "a commit"
    assert calls == [
        ("token", "x"),
        ("create", "somebody/model", True),
        ("upload", "somebody/model", FILES),
        ("config", model.config),
    ]


def test_a_hub_id_is_downloaded_and_never_unpickled(saved, monkeypatch):
    asked = []

    def download(repo_id, filename, **options):
        asked.append((repo_id, filename, options["revision"]))
        return str(saved / filename)

    monkeypatch.setattr(huggingface_hub.hub_mixin, "hf_hub_download", download)
    monkeypatch.setattr("c2s.deploy.model.hf_hub_download", download)
    read = SegmentationModel.from_pretrained("somebody/model", revision="v1")
    assert read.config == SegmentationModel.from_pretrained(saved).config
    wanted = ("config.json", "model.safetensors")
    assert asked == [("somebody/model", name, "v1") for name in wanted]


def test_a_model_calls_code_of_this_machine_only_if_that_is_allowed(saved, monkeypatch):
    file = saved / "config.json"
    facts = json.loads(file.read_text())
    file.write_text(json.dumps(facts | {"student": "python:os:abort"}))
    download = lambda repo_id, filename, **_: str(saved / filename)  # noqa: E731
    monkeypatch.setattr(huggingface_hub.hub_mixin, "hf_hub_download", download)
    for source in ("somebody/model", saved):
        with pytest.raises(CodeError, match=r"python:os:abort.*module os .*allow_code=True"):
            SegmentationModel.from_pretrained(source)
    called = []
    monkeypatch.setattr(os, "abort", lambda width: called.append(width))
    with pytest.raises(ConfigError, match="gave a NoneType"):
        SegmentationModel.from_pretrained(saved, allow_code=True)
    assert called == [len(facts["classes"])]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (
            lambda f: (f / "config.json").write_text("{}"),
            r"not that of a folded c2s model \(kind",
        ),
        (lambda f: (f / "model.safetensors").unlink(), "missing or damaged"),
        (lambda f: (f / "model.safetensors").write_bytes(b"half"), "missing or damaged"),
        (lambda f: save_file({"x": torch.zeros(1)}, f / "model.safetensors"), "it lacks"),
    ],
)
def test_what_is_damaged_is_one_sentence(saved, damage, message):
    damage(saved)
    with pytest.raises(ModelError, match=message) as caught:
        SegmentationModel.from_pretrained(saved)
    assert "\n" not in str(caught.value)


def test_weights_of_other_classes_are_refused(saved):
    file = saved / "config.json"
    facts = json.loads(file.read_text())
    file.write_text(json.dumps(facts | {"classes": facts["classes"][1:]}))
    with pytest.raises(ModelError, match=r"written with another config\.json"):
        SegmentationModel.from_pretrained(saved)
    weights = saved / "model.safetensors"
    save_file(load_file(weights), weights)  # another program's: without a seal
    with pytest.raises(ModelError, match=r"expected \[5\]"):
        SegmentationModel.from_pretrained(saved)


def test_the_card_says_what_is_known_and_nothing_else(model, saved):
    card = ModelCard.load(saved / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "c2s"
    assert card.data.pipeline_tag == "image-segmentation"
    assert card.data.eval_results is None
    assert "## Scores" not in card.text
    assert "6 classes, 2 of which were never annotated" in card.text
    for i, name in enumerate(model.config.classes):
        assert f"| {i} | {name} | {'unseen' if i in (3, 5) else 'seen'} |" in card.text
    assert "0" * 64 in card.text
    assert not re.search(r"None|nan|\{|\}", card.text.replace("`None`", ""))


def test_the_card_has_the_scores_of_eval(model, facts):
    several = (Scores(**facts), Scores(**(facts | {"folded": True, "mode": "whole"})))
    card = ModelCard(model_card(model.config.model_copy(update={"scores": several})))
    row = "| tiny | val | inductive | cosines | slide | 7 | 12.3 | - | 5.0 | 7.0 | 6.0 | 8.0 |"
    assert row in card.text
    assert row.replace("cosines | slide", "logits | whole") in card.text
    named = {(r.metric_type, r.metric_value) for r in card.data.eval_results}
    assert ("sIoU", 12.34) in named
    assert "uIoU" not in {metric for metric, _ in named}


def test_the_code_on_the_card_runs(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture()).save("photo.jpg")
    (code,) = re.findall(r"```python\n(.*?)```", (saved / "README.md").read_text(), re.DOTALL)
    scope: dict = {}
    exec(code.replace("PATH OR HUB ID OF THIS MODEL", str(saved)), scope)
    assert scope["labels"].shape == (40, 70)
    assert scope["names"][3] == "cow"
