"""Words that a run does not know, by the text tower of a checkpoint file and of a folder, wherever those lie."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import distributed
import numpy as np
import open_clip
import pytest
import torch
from conftest import TINY_MODEL, make_coco_tree
from PIL import Image
from small_builds import request as build_request
from tiny_runs import settings

import c2s.datasets
from c2s.datasets import FolderSplit, descriptor
from c2s.datasets.coco_stuff import DESCRIPTOR
from c2s.deploy import SegmentationModel
from c2s.runs.run import Run, open_run
from c2s.runs.sealed import read_sealed, write_sealed
from c2s.text_tower import class_embeddings
from c2s.training import run as training
from c2s_cache import C2SError, CacheError
from c2s_cache.provenance import PROVENANCE
from c2s_pipeline.build.builder import build
from c2s_pipeline.teachers import registry
from c2s_pipeline.teachers.base import TeacherSpec
from c2s_pipeline.teachers.registry import load_teacher
from c2s_pipeline.teachers.templates import SINGLE
from c2s_pipeline.teachers.text import class_embeddings as embed

NAME = "tiny-b-8"
WORDS = ["unicorn", "cat", "a thing of nothing"]


@dataclass
class Learnt:
    """A run, and the weights of the teacher of its cache: where they are, and how `--teacher-weights` names them."""

    run: Path
    weights: Path
    prefix: str

    def option(self, weights: Path) -> str:
        return f"{self.prefix}{weights}"

    def words(self, weights: str | None = None) -> np.ndarray:
        return class_embeddings(open_run(self.run), WORDS, weights)


def write_weights(folder: Path, seed: int) -> Path:
    """A folder of a tiny CLIP in open_clip's layout, its checkpoint `model.pth` one that names may be given to."""
    torch.manual_seed(seed)
    state = open_clip.model.CLIP(**TINY_MODEL).state_dict()
    folder.mkdir(parents=True)
    torch.save(state, folder / "model.pth")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY_MODEL}))
    return folder


@pytest.fixture(scope="module", params=["file", "folder"])
def learnt(request, tiny_name, tmp_path_factory):
    """A run of a single iteration from a cache of two photos."""
    home = tmp_path_factory.mktemp(request.param)
    folder = write_weights(home / "weights", seed=0)
    whole = request.param == "folder"
    asked = build_request(
        f"local-dir:{folder}" if whole else NAME,
        pretrained=None if whole else str(folder / "model.pth"),
    )
    source = FolderSplit(DESCRIPTOR, make_coco_tree(home / "coco_stuff164k", count=2), "train")
    threads = {"n_workers": 1, "threads_per_worker": 1, "processes": False}
    quiet = {"dashboard_address": ":0", "silence_logs": logging.CRITICAL}
    with distributed.LocalCluster(**threads, **quiet) as cluster:
        build(source, asked, home / "coco.zarr", scheduler=cluster.scheduler_address)
    options = {"student": "shapes-net", "weights": "random", "iterations": 1, "batch_size": 2}
    path = training.train(settings(home / "coco.zarr", home / "runs", **options))
    prefix = "local-dir:" if whole else ""
    return Learnt(path, folder if whole else folder / "model.pth", prefix)


@pytest.fixture
def moved(learnt, tmp_path):
    """Where the weights are now, under another name; afterwards they are back."""
    place = tmp_path / f"elsewhere{learnt.weights.suffix}"
    shutil.move(learnt.weights, place)
    yield place
    shutil.move(place, learnt.weights)


@pytest.fixture
def want(learnt):
    """What the whole teacher says of the words that the run does not know, float32 [2, D]."""
    text = load_teacher(_spec(learnt)).text
    return embed(text, [WORDS[0], WORDS[2]], SINGLE)


def _spec(learnt: Learnt) -> TeacherSpec:
    named = (NAME, str(learnt.weights))
    return TeacherSpec(*((learnt.option(learnt.weights), None) if learnt.prefix else named))


def known(run: Run, name: str) -> np.ndarray:
    return run.embeddings[run.info.classes.index(name)]


def test_weights_that_have_not_moved_are_found(learnt, want, monkeypatch):
    """Without a word, and without their image tower."""
    whole = []
    monkeypatch.setattr(
        registry.OpenClipTeacher, "__init__", lambda *a: whole.append(a), raising=True
    )
    got = learnt.words()
    np.testing.assert_array_equal(got[[0, 2]], want)
    np.testing.assert_array_equal(got[1], known(open_run(learnt.run), "cat"))
    assert whole == []


def test_weights_that_have_moved_are_named(learnt, want, moved):
    with pytest.raises(C2SError, match=r"teacher of the run .*cannot be loaded") as caught:
        learnt.words()
    assert "--teacher-weights FILE (or local-dir:FOLDER)" in str(caught.value)
    np.testing.assert_array_equal(learnt.words(learnt.option(moved))[[0, 2]], want)


def test_what_counts_is_the_digest_and_not_how_the_weights_come(learnt, want):
    if learnt.prefix:
        with pytest.raises(C2SError, match=r"comes as a whole, so .*; name it as local-dir:FOLDER"):
            learnt.words(str(learnt.weights / "model.pth"))
    else:
        np.testing.assert_array_equal(
            learnt.words(f"local-dir:{learnt.weights.parent}")[[0, 2]], want
        )


def test_names_are_put_into_the_sentences_of_the_run(learnt):
    """And those that the run has in another spelling are not asked about."""
    opened = open_run(learnt.run)
    info = opened.info.model_copy(
        update={"templates": ("There is a {}.",), "prompts": ("a tv", *opened.info.classes[1:])}
    )
    got = class_embeddings(replace(opened, info=info), ["a tv", "unicorn", opened.info.classes[0]])
    text = load_teacher(_spec(learnt)).text
    np.testing.assert_array_equal(got[1], embed(text, ["unicorn"], ["There is a {}."])[0])
    np.testing.assert_array_equal(got[[0, 2]], opened.embeddings[[0, 0]])


def test_other_weights_are_refused_with_both_digests(learnt, tmp_path):
    other = write_weights(tmp_path / "other", seed=1)
    weights = other if learnt.prefix else other / "model.pth"
    recorded = open_run(learnt.run).info.teacher.text_digest
    found = load_teacher(replace(_spec(learnt), **_at(learnt, weights))).text.digest
    with pytest.raises(CacheError, match="text tower of the teacher of the run") as caught:
        learnt.words(learnt.option(weights))
    assert recorded is not None
    assert recorded != found
    assert {recorded[:12], found[:12]} <= set(
        str(caught.value).replace(",", "").replace(":", "").split()
    )


def _at(learnt: Learnt, weights: Path) -> dict[str, str]:
    if learnt.prefix:
        return {"name": learnt.option(weights)}
    return {"pretrained": str(weights)}


def test_a_cache_of_another_machine_is_one_sentence(learnt, tmp_path):
    """Its provenance may be lost, and the weights are nowhere."""
    run = shutil.copytree(learnt.run, tmp_path / "run")
    write_sealed(run / "run.json", read_sealed(run / "run.json") | {"teacher_weights": None})
    with pytest.raises(C2SError, match="--teacher-weights") as caught:
        class_embeddings(open_run(run), ["unicorn"])
    assert "\n" not in str(caught.value)


def test_the_cache_and_the_run_keep_the_place_apart_from_what_decides(learnt):
    info = open_run(learnt.run).info
    assert info.teacher_weights == learnt.option(learnt.weights)
    cache = learnt.run.parents[1] / "coco.zarr"
    assert str(learnt.weights) in (cache / PROVENANCE).read_text()
    assert str(learnt.weights) not in (cache / "zarr.json").read_text()


@pytest.fixture
def picture(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (4, 7, 3)).astype(np.uint8)
    Image.fromarray(colours.repeat(10, 0).repeat(10, 1)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_predict_segments_by_words_of_weights_that_moved(learnt, moved, picture, tmp_path, invoke):
    asked = ("predict", picture, "--run", learnt.run, "--out", tmp_path / "out", "--device", "cpu")
    words = ("--classes", "unicorn, cat")
    with pytest.raises(C2SError, match="--teacher-weights"):
        invoke(*asked, *words)
    invoke(*asked, *words, "--teacher-weights", learnt.option(moved))
    assert set(np.unique(np.asarray(Image.open(tmp_path / "out" / "a.png")))) <= {0, 1}
    with pytest.raises(C2SError, match="teacher_weights has no effect"):
        invoke(*asked, "--teacher-weights", learnt.option(moved))


def test_fold_takes_words_of_weights_that_moved(learnt, want, moved, tmp_path, invoke):
    asked = ("fold", "--run", learnt.run, "--out", tmp_path / "m")
    words = ("--classes", f"{WORDS[0]}, cat, {WORDS[2]}")
    with pytest.raises(C2SError, match="--teacher-weights"):
        invoke(*asked, *words)
    invoke(*asked, *words, "--teacher-weights", learnt.option(moved))
    model = SegmentationModel.from_pretrained(tmp_path / "m")
    assert (model.config.classes, model.config.unseen) == (tuple(WORDS), (0, 2))
    opened = open_run(learnt.run)
    last = opened.student.get_parameter(f"{opened.student.classifier}.weight")
    folded = model.student.get_parameter(f"{opened.student.classifier}.weight")
    expected = torch.from_numpy(want[0]).double() @ last.detach().double().flatten(1)
    torch.testing.assert_close(folded[0].double().flatten(), expected, rtol=1e-5, atol=1e-6)


def test_eval_takes_the_names_of_another_data_set(learnt, moved, picture, monkeypatch, invoke):
    class Item:
        id = "a"

        def read(self):
            image = np.asarray(Image.open(picture))
            return image, (image[..., 0] % 2).astype(np.uint8)

    other = SimpleNamespace(
        name="other",
        protocol=descriptor.TestProtocol(view_size=32, stride=27, short_side=32),
        classes=("cat", "unicorn"),
        prompts=("cat", "unicorn"),
        names=(("cat",), ("unicorn",)),
        unseen=(),
        split=lambda name: [Item()],
    )
    monkeypatch.setattr(c2s.datasets, "load_dataset", lambda name, root=None: other)
    asked = ("eval", "--run", learnt.run, "--dataset", "other", "--device", "cpu", "--json")
    weights = ("--teacher-weights", learnt.option(moved))
    with pytest.raises(C2SError, match="--teacher-weights"):
        invoke(*asked, "--vocabulary", "names")
    facts = json.loads(invoke(*asked, "--vocabulary", "names", *weights))
    assert [c["unseen"] for c in facts["classes"]] == [False, True]
    with pytest.raises(C2SError, match="teacher_weights has no effect"):
        invoke(*asked, *weights)
