"""Frames of a clip that share their queries: what they share, what comes out frame by frame, and who is refused."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from in_process import command
from PIL import Image

from c2s.cli.frames import check_frames
from c2s.datasets import load_dataset
from c2s.datasets.folder import FolderSplit
from c2s.datasets.vipseg import DESCRIPTOR
from c2s.evaluation.classifier import Classifier
from c2s.evaluation.evaluate import _clips, evaluate
from c2s.evaluation.inference import Predictor
from c2s.students import create
from c2s.testing import shapes
from c2s.vocabulary import Vocabulary
from c2s_cache.errors import ConfigError
from c2s_pipeline.stages.registry import closed

T = 3


@pytest.fixture(scope="module")
def frames():
    """Three frames of a clip, uint8 [64, 64, 3] each."""
    return [load_dataset("shapes-moving").split("val")[i].read()[0] for i in range(T)]


def sharpened(name, factor=10):
    """A student whose queries differ in what they attend to, in their masks and in their words; and four words."""
    torch.manual_seed(0)
    student = create(name, 16).eval()
    with torch.no_grad():
        student.transformer.queries_features.weight.normal_()
        for parameter in student.transformer.decoder.parameters():
            if parameter.ndim > 1:
                parameter.mul_(factor)
        found = student(torch.rand(1, 3, 64, 64)).embeddings[-1][0]
        common = torch.nn.functional.normalize(found.mean(0), dim=0)
        apart = (found - found.mean(0))[:4]
        text = torch.nn.functional.normalize(apart - (apart @ common)[:, None] * common, dim=1)
    return student, text


@pytest.fixture(scope="module")
def model():
    return Classifier(*sharpened("mask2former:shapes"))


def inputs(frames):
    return torch.stack([torch.tensor(f).permute(2, 0, 1).float() / 255 for f in frames])


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("mask2former:shapes", 10),
        pytest.param("mask2former:resnet18", 3, marks=pytest.mark.slow),
    ],
)
def test_copies_of_an_image_get_its_scores(name, factor):
    """Positions are those within a frame, and no mask is brought to cells of two frames."""
    student, text = sharpened(name, factor)
    image = torch.randn(1, 3, 64, 64)
    alone = student.classify(image, text)
    together = student.classify_clip(image.expand(T, -1, -1, -1), text)
    assert together.shape == (T, *alone.shape[1:])
    torch.testing.assert_close(together, alone.expand(T, -1, -1, -1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(student.classify(image, text), alone, rtol=0, atol=0)


@torch.no_grad()
def test_a_query_has_one_embedding_in_all_frames_of_its_clip(model, frames):
    """Two clips in a batch are two times one, and each frame has a say in what its clip's queries are."""
    images = inputs(frames)
    student = model.student
    both = student(torch.cat([images, images.flip(0)]), T)
    one = student(images, T)
    assert both.embeddings[-1].shape == (2, 16, 16)
    torch.testing.assert_close(both.embeddings[-1][:1], one.embeddings[-1], rtol=1e-4, atol=1e-5)
    order = both.masks[-1][1].unflatten(1, (T, 32)).flip(1).flatten(1, 2)
    torch.testing.assert_close(order, one.masks[-1][0], rtol=1e-3, atol=1e-3)  # no place in time
    alone = student(images)
    assert not torch.allclose(alone.embeddings[-1][:1], one.embeddings[-1], atol=1e-4)


class Hues(Classifier):
    """Not of queries: red, green and blue of a place, and its red in the mean of all frames."""

    def clip(self, images):
        return torch.cat([images, images.mean(0)[None, :1].expand(len(images), -1, -1, -1)], 1)


@pytest.fixture
def hues():
    student = create("shapes-net", 4, "random")
    student.mean, student.std = (0.5,) * 3, (0.5,) * 3
    return Predictor(Hues(student, torch.eye(4)).eval(), 64, "slide", stride=40)


def test_frames_go_together_window_by_window(hues, frames):
    wide = [np.concatenate([f, f[:, ::-1]], 1)[:, :100] for f in frames]
    found = hues.best_of_clip(wide, [None, torch.tensor([9.0, 0, 0, 0])])
    pixels = np.stack(wide).astype(np.float32)
    scores = np.concatenate([pixels, pixels.mean(0)[None, ..., :1].repeat(T, 0)], -1)
    tie = np.sort(scores, -1)[..., -1] - np.sort(scores, -1)[..., -2] < 0.01
    for i, (plain, without_red) in enumerate(found):
        right = (plain == scores[i].argmax(-1)) | tie[i]
        assert right.all()
        assert ((without_red != 0) & ((without_red == plain) | (plain == 0))).all()
    assert (found[0][0] != found[1][0]).mean() > 0.01
    with pytest.raises(ConfigError, match="frames from film on are not of one size"):
        hues.best_of_clip([frames[0], wide[0]], [None], "film")


def test_a_score_takes_the_frames_of_each_clip_by_so_many(hues):
    split = load_dataset("shapes-moving").split("val")
    items = list(split)[4:18]  # the end of a clip of eight, and the beginning of others
    groups = [[item.id[4:] for item in group] for group in _clips(items, T)]
    assert [len(g) for g in groups] == [3, 1, 3, 3, 2, 2]
    assert [i for g in groups for i in g] == [item.id[4:] for item in items]
    assert all(len({i.split("-")[0] for i in g}) == 1 for g in groups)

    words = Vocabulary(tuple("abcd"), np.eye(4, 16, dtype=np.float32), (3,))
    few = [
        SimpleNamespace(id=i.id, split=split, read=lambda i=i: few_classes(i)) for i in items[:6]
    ]
    moved = []
    together = evaluate(hues, few, words, frames=T, advance=moved.append)
    assert moved == [3, 1, 2]
    want = [
        labels[0]
        for group in _clips(few, T)
        for labels in hues.best_of_clip([item.read()[0] for item in group], [None])
    ]
    right = np.mean([w == item.read()[1] for w, item in zip(want, few, strict=True)])
    assert together.metrics.pAcc == pytest.approx(right)
    with pytest.raises(ConfigError, match="shapes has no clips"):
        evaluate(hues, list(load_dataset("shapes").split("val"))[:2], words, frames=T)


def few_classes(item):
    image, labels = item.read()
    return image, (labels % 4).astype(np.uint8)


def test_clips_of_vipseg_are_its_folders_of_frames():
    split = FolderSplit.__new__(FolderSplit)
    split.descriptor = DESCRIPTOR
    assert split.clip("0_abc/00000123") == "0_abc"
    assert load_dataset("shapes").split("val").clip("val-000000") is None


@pytest.mark.slow
def test_commands_take_frames_together(tmp_path):
    c2s_here = command(tmp_path)
    cache = shapes.shapes_cache(closed(("labels", "views", "text", "segments", "words")))
    train = (
        "train",
        "--cache",
        cache.address,
        "--method",
        "gkc",
        "--student",
        "mask2former:shapes",
    )
    c2s_here(*train, "--iterations", 1, "--batch-size", 2, "--workers", 0, "--name", "r")
    (tmp_path / "photos").mkdir()
    split = load_dataset("shapes-moving").split("val")
    for i in range(5):
        Image.fromarray(split[i].read()[0]).save(tmp_path / f"photos/{i}.png")
    words = ("--run", "runs/r", "--device", "cpu")
    c2s_here("predict", "photos", *words, "--frames", 4, "--out", "out")
    assert len(list((tmp_path / "out").iterdir())) == 11
    found = c2s_here(
        "eval", *words, "--dataset", "shapes-moving", "--frames", 4, "--limit", 8, "--json"
    )
    assert json.loads(found)["frames"] == 4
    said = c2s_here("eval", *words, "--dataset", "shapes", "--frames", 4, "--limit", 8, code=2)
    assert "shapes has no clips" in said
    said = c2s_here("predict", "photos", *words, "--frames", 0, "--out", "out", code=2)
    assert "frames" in said
    c2s_here("fold", "--run", "runs/r", "--out", "model")
    said = c2s_here("predict", "photos", "--run", "model", "--frames", 4, "--out", "o", code=2)
    assert "looks at every frame alone" in said


def test_students_without_queries_take_no_frames_together():
    run = SimpleNamespace(
        student=create("shapes-net", 16), config=SimpleNamespace(student="shapes-net")
    )
    with pytest.raises(ConfigError, match="shapes-net has no queries that could follow a thing"):
        check_frames(run)
