"""Prompt sets, and class embeddings that are computed or imported."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
from conftest import make_coco_tree
from small_builds import made

from c2s.datasets import load_dataset
from c2s.shapes.defaults import build_defaults
from c2s_cache import ConfigError, open_cache
from c2s_pipeline.build.builder import build
from c2s_pipeline.build.request import make_manifest
from c2s_pipeline.build.rows import new_rows
from c2s_pipeline.stages.base import Once
from c2s_pipeline.teachers.base import TeacherSpec
from c2s_pipeline.teachers.imported_text import (
    PROBES,
    TEMPLATE_PAIR,
    check_order,
    knows_words,
    load_embeddings,
)
from c2s_pipeline.teachers.registry import load_teacher
from c2s_pipeline.teachers.templates import (
    IMAGENET,
    MASKCLIP,
    SINGLE,
    TEMPLATES,
    ZEGCLIP,
    template_set,
)
from c2s_pipeline.teachers.text import class_embeddings, cut_names, say_cut, say_unknown

COCO = load_dataset("coco-stuff").classes
FILES = {
    "coco_single.npy": COCO,
    "coco_multi.npy": COCO,
    "voc12_single.npy": load_dataset("voc").classes,
    "context_multi.npy": load_dataset("context-bg").classes,
}


def test_prompt_sets_have_their_published_sizes():
    assert {name: len(set(t)) for name, t in TEMPLATES.items()} == {
        "single": 1,
        "zegclip15": 15,
        "imagenet80": 80,
        "maskclip85": 85,
    }
    assert all(t.count("{}") == 1 for templates in TEMPLATES.values() for t in templates)
    assert ZEGCLIP[:5] == (
        "a photo of a {}.",
        "a photo of a small {}.",
        "a photo of a medium {}.",
        "a photo of a large {}.",
        "This is a photo of a {}.",
    )
    with pytest.raises(
        ConfigError, match=r"unknown template set 'zegclip'. Known: single, zegclip15"
    ):
        template_set("zegclip")


def test_imagenets_prompts_are_those_of_open_clip():
    theirs = [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    assert list(IMAGENET) == theirs
    assert MASKCLIP[:80] == IMAGENET


def test_ensembles_are_what_open_clips_own_classifier_builder_gives(tiny_teacher):
    teacher = load_teacher(TeacherSpec(tiny_teacher, None))
    names = ["cat", "potted plant", "sky"]
    got = class_embeddings(teacher.text, names, ZEGCLIP)
    want = open_clip.build_zero_shot_classifier(
        teacher._model, open_clip.get_tokenizer(tiny_teacher), names, ZEGCLIP
    )
    np.testing.assert_allclose(got, want.numpy().T, atol=1e-6)


@pytest.mark.parametrize("name", FILES)
def test_real_embeddings_load_in_class_order(name, shared_data):
    """Each row's nearest neighbour among COCO-Stuff's is the class of the same name, where there is one."""
    classes = FILES[name]
    folder = shared_data / "clip_text_vit_b16"
    rows = load_embeddings(folder / name, classes, 512)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    reference = "coco_single.npy" if name != "coco_single.npy" else "coco_multi.npy"
    coco = load_embeddings(folder / reference, COCO, 512)
    nearest = (rows @ coco.T).argmax(1)
    same = [i for i, class_name in enumerate(classes) if class_name in COCO]
    assert len(same) >= 14
    assert [COCO[nearest[i]] for i in same] == [classes[i] for i in same]


def test_exchanged_rows_are_refused_by_name(shared_data):
    folder, file = shared_data / "clip_text_vit_b16", Path("t.npy")
    own = load_embeddings(folder / "coco_single.npy", COCO, 512)
    rows = load_embeddings(folder / "coco_multi.npy", COCO, 512)
    check_order(rows, own, rows, COCO, file)
    for a, b in np.random.default_rng(0).permutation(len(COCO))[:40].reshape(-1, 2).tolist():
        swapped = rows.copy()
        swapped[[a, b]] = rows[[b, a]]
        first, other = COCO[min(a, b)], COCO[max(a, b)]
        message = f"should be '{first}', but the teacher takes it for '{other}'"
        with pytest.raises(ConfigError, match=message):
            check_order(swapped, own, rows, COCO, file)
    with pytest.raises(ConfigError, match="of 171 rows are off"):
        check_order(rows[np.argsort(np.array(COCO))], own, rows, COCO, file)


@pytest.mark.slow
def test_a_trained_text_tower_is_known_by_few_words(shared_data):
    """Real embeddings of pairs and of longer lists; those of one sentence against those of fifteen."""
    folder = shared_data / "clip_text_vit_b16"
    own, again = (load_embeddings(folder / f"coco_{k}.npy", COCO, 512) for k in ("single", "multi"))
    rng = np.random.default_rng(0)
    for size, most in ((2, 4), (4, 0), (16, 0), (171, 0)):
        draws = [rng.choice(len(COCO), size, replace=False) for _ in range(200)]
        assert sum(not knows_words(own[d], again[d]) for d in draws) <= most, size


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 60])
def test_genuine_rows_are_taken_beside_an_untrained_teacher(count, tiny_teacher):
    """Such a tower takes any two sentences for alike, so that its own order means nothing."""
    teacher = load_teacher(TeacherSpec(tiny_teacher, None))
    words = (*COCO[:count], *PROBES)
    own, again = (class_embeddings(teacher.text, words, [t]) for t in TEMPLATE_PAIR)
    assert not knows_words(own[:count], again[:count])
    assert not knows_words(own[count:], again[count:])


@pytest.mark.parametrize("settings", [{"pretrained": "random"}, {}, {"check_text": False}])
def test_an_untrained_teacher_is_not_asked_about_rows(settings, tiny_teacher, tmp_path):
    """Neither one that is random by name, nor one that is found to be; and none that must not be."""
    classes = ("cat", "dog")
    unit = np.random.default_rng(1).normal(size=(2, 256 if "pretrained" in settings else 32))
    np.save(tmp_path / "text.npy", unit.astype(np.float32))
    name = "ViT-S-32-alt" if "pretrained" in settings else tiny_teacher
    teacher = load_teacher(TeacherSpec(name, settings.get("pretrained")))
    request = made(teacher=name, text_embeddings=tmp_path / "text.npy", **settings)
    described = SimpleNamespace(
        classes=classes,
        teacher=SimpleNamespace(dim=unit.shape[1]),
        stage=lambda name: SimpleNamespace(settings={}),
    )
    once = Once(described, teacher, lambda done, total: None)
    got = request.stage("text").compute_once(once)["text/embeddings"]
    np.testing.assert_allclose(got, unit / np.linalg.norm(unit, axis=1, keepdims=True), atol=1e-6)


def test_imported_rows_become_unit_vectors(tmp_path):
    rows = np.array([[3.0, 4.0], [0.0, 2.0]], np.float16)
    np.save(tmp_path / "t.npy", rows)
    (tmp_path / "t.txt").write_text("cat\ndog\n")
    got = load_embeddings(tmp_path / "t.npy", ("cat", "dog"), 2)
    np.testing.assert_allclose(got, [[0.6, 0.8], [0, 1]], atol=1e-7)
    assert got.dtype == np.float32
    with pytest.raises(ConfigError, match=r"t\.txt: row 0 should be 'dog', got 'cat'"):
        load_embeddings(tmp_path / "t.npy", ("dog", "cat"), 2)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((3, 2), np.float32), r"expected shape \(2, 2\).*got \(3, 2\)"),
        (np.zeros((2, 2), np.int64), "floating point"),
        (np.zeros((2, 2), np.float32), r"row 0 \(cat\) is zero or not finite"),
        (np.array([[1, 0], [np.nan, 1]]), r"row 1 \(dog\) is zero or not finite"),
        (np.array([{"a": 1}], object), "cannot be read"),
    ],
)
def test_wrong_files_are_refused(rows, message, tmp_path):
    np.save(tmp_path / "t.npy", rows)
    with pytest.raises(ConfigError, match=message):
        load_embeddings(tmp_path / "t.npy", ("cat", "dog"), 2)


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load_embeddings(tmp_path / "t.npy", ("cat",), 2)
    (tmp_path / "t.npy").write_bytes(b"not an array")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_embeddings(tmp_path / "t.npy", ("cat",), 2)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = make_coco_tree(tmp_path_factory.mktemp("data") / "coco_stuff164k", count=2)
    return load_dataset("coco-stuff", root).split("train")


def test_whatever_decides_the_embeddings_decides_the_fingerprint(source, tiny_teacher, tmp_path):
    teacher = load_teacher(TeacherSpec(tiny_teacher, None)).info()
    rows = np.random.default_rng(0).normal(size=(171, teacher.dim)).astype(np.float32)
    np.save(tmp_path / "a.npy", rows)
    np.save(tmp_path / "b.npy", rows[::-1])

    def fingerprint(**changes):
        request = made(teacher=tiny_teacher, masks={"windows": (2, 3)}, **changes)
        return make_manifest(
            source, request, new_rows(source, request).parts, teacher
        ).fingerprints["text"]

    prompts = load_dataset("coco-stuff").prompts
    prints = [
        fingerprint(),
        fingerprint(templates="zegclip15"),
        fingerprint(prompts=prompts),
        fingerprint(text_embeddings=tmp_path / "a.npy"),
        fingerprint(text_embeddings=tmp_path / "b.npy"),
    ]
    assert len(set(prints)) == len(prints)
    np.save(tmp_path / "b.npy", 2 * rows)  # other bytes, the same unit vectors
    assert fingerprint(text_embeddings=tmp_path / "b.npy") == prints[3]
    with pytest.raises(
        ConfigError, match=r"text\.templates has no effect: the embeddings are imported"
    ):
        fingerprint(text_embeddings=tmp_path / "a.npy", templates="zegclip15")
    with pytest.raises(ConfigError, match="2 names for the 171 classes"):
        fingerprint(prompts=("a", "b"))


@pytest.fixture
def shapes():
    """The Shapes world, its trained teacher, and that teacher's request for one scene."""
    defaults = build_defaults("shapes", None)
    teacher = load_teacher(TeacherSpec(defaults["teacher"], None))
    return load_dataset("shapes"), teacher, partial(made, **defaults, limit=1)


@pytest.mark.slow
@pytest.mark.parametrize("imports", [True, False])
def test_a_cache_holds_what_was_asked_for(imports, shapes, tmp_path, scheduler):
    dataset, teacher, request = shapes
    prompts = tuple(f"drawn {name}" for name in dataset.classes)
    want = class_embeddings(teacher.text, prompts, ZEGCLIP)
    asked = request(prompts=prompts, templates="zegclip15")
    if imports:
        want = class_embeddings(teacher.text, dataset.classes, ["a {}"])
        np.save(tmp_path / "text.npy", 7 * want)
        asked = request(text_embeddings=tmp_path / "text.npy")
    build(dataset.split("val"), asked, tmp_path / "out.zarr", scheduler=scheduler)
    got = open_cache(tmp_path / "out.zarr").once("text/embeddings")
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_wrong_rows_are_refused_before_a_cache_comes_to_be(shapes, tmp_path):
    dataset, teacher, request = shapes
    own = class_embeddings(teacher.text, dataset.classes, ["a {}"])
    for rows, message in (
        (own[::-1], "but the teacher takes it for"),
        (np.random.default_rng(0).normal(size=own.shape), "they come from another CLIP"),
    ):
        np.save(tmp_path / "text.npy", rows)
        asked = request(text_embeddings=tmp_path / "text.npy")
        with pytest.raises(ConfigError, match=message):
            build(dataset.split("val"), asked, tmp_path / "refused.zarr")
        assert not (tmp_path / "refused.zarr").exists()
    asked = request(text_embeddings=tmp_path / "text.npy", check_text=False)
    source = dataset.split("val")
    described = make_manifest(source, asked, new_rows(source, asked).parts, teacher.info())
    once = Once(described, teacher, lambda done, total: None)
    assert len(asked.stage("text").compute_once(once)["text/embeddings"]) == len(own)
    with pytest.raises(ConfigError, match=r"text\.check has no effect: no file of embeddings"):
        make_manifest(source, request(check_text=False), described.parts, teacher.info())


def test_class_embeddings_do_not_depend_on_the_number_of_cores(shapes, monkeypatch):
    _, teacher, _ = shapes
    before, found, threads = torch.get_num_threads(), [], set()
    encode = teacher.text.embed_text

    def watched(sentences):
        threads.add(torch.get_num_threads())
        return encode(sentences)

    monkeypatch.setattr(teacher.text, "embed_text", watched)
    try:
        for cores in (1, 2, 5):
            monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
            torch.set_num_threads(cores)
            found.append(class_embeddings(teacher.text, COCO, ("a {}.", "one {}.")).tobytes())
            assert torch.get_num_threads() == cores
    finally:
        torch.set_num_threads(before)
    assert len(set(found)) == 1
    assert threads == {1}


LONG = "red circle on " * 12


@pytest.mark.parametrize(
    ("classes", "named"),
    [
        (("Star", "star", "ring"), "'Star' from 'star'"),
        (("star", "unicorn", "pony"), "'unicorn' from 'pony'"),
        ((f"{LONG}sand", "ring", f"{LONG}waves"), "sand' from 'red circle"),
    ],
)
def test_classes_that_the_text_tower_takes_for_one_are_refused(classes, named, shapes):
    """In other letters, outside its vocabulary, or alike up to where it stops reading."""
    _, teacher, request = shapes
    stage = request().stage("text")
    record = SimpleNamespace(settings={"templates": list(SINGLE)})
    described = SimpleNamespace(classes=classes, stage=lambda name: record)
    with pytest.raises(ConfigError, match=f"the class names: the text tower cannot tell .*{named}"):
        stage.compute_once(Once(described, teacher, lambda done, total: None))


def test_names_that_are_cut_are_found_among_the_longest(shapes, capsys):
    text = shapes[1].text
    names = ("ring", LONG, "star", f"{LONG}star", "red circle on sand", "heart", "dots")
    assert sorted(cut_names(text, names, SINGLE)) == sorted([LONG, f"{LONG}star"])
    assert cut_names(text, ("ring", "unicorn"), SINGLE) == []
    say_cut(text, names, SINGLE)
    assert "only the beginning of the class name 'red circle on" in capsys.readouterr().err
    say_cut(text, ("ring",), SINGLE)
    assert capsys.readouterr().err == ""


def test_a_name_that_the_text_tower_has_no_word_for_is_said(shapes, capsys):
    """It is read as any other such name, whether or not one stands beside it; a known word in it tells it apart."""
    text = shapes[1].text
    for names, said in ((("ring", "unicorn"), "does not know unicorn,"), (("red unicorn",), "")):
        say_unknown(text, names, SINGLE, class_embeddings(text, names, SINGLE))
        err = capsys.readouterr().err
        assert said in err if said else err == ""


def test_a_text_tower_that_knows_no_further_word_cuts_nothing():
    deaf = SimpleNamespace(embed_text=lambda sentences: torch.ones(len(sentences), 1))
    assert cut_names(deaf, ("a long name", "b"), SINGLE) == []
