"""An option of `c2s cache build`, `plan` or `derive` acts, or is refused before anything is written."""

from __future__ import annotations

import json

import numpy as np
import pytest
from in_process import command
from small_builds import contents
from tiny_cache import tiny_manifest, write_cache
from typer.main import get_command
from typer.testing import CliRunner

from c2s.cli.app import app
from c2s_cache import C2SError, ConfigError, Manifest, open_cache
from c2s_pipeline.build.request import build_request

BUILD = ("cache", "build", "--dataset", "shapes")


def refused(*arguments):
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, C2SError), (result.output, result.exception)
    return str(result.exception)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--out", "s3://bucket/x"), "--out s3://bucket/x: a cache is built on a local disk"),
        (("--out", "file:///tmp/x"), "is built on a local disk"),
        (("--out", ""), "--out is empty"),
        (("--out", "/"), "/ is not a c2s cache (it holds "),
        (("--out", "/dev/null"), "/dev/null is not a c2s cache (a file)"),
        (("--root", "/nonexistent"), "there is no folder /nonexistent"),
        (("--root", "."), "--root has no effect: shapes is drawn on demand"),
        (("--workers", "2", "--scheduler", "tcp://x:1"), "--workers has no effect beside"),
        (("--set", "masks.windows=[]"), "masks.windows: "),
        (("--set", "masks.threshold=-1"), "masks.threshold: "),
        (("--set", "text.templates=[]"), "text.templates: expected at least one sentence"),
        (("--set", "seed=4294967296"), "seed: "),
        (("--batch-size", "100000"), "batch_size: "),
        (("--batch-size", "8", "--set", "batch_size=9"), "both say batch_size; leave one"),
        (("--set", "view_size=100000"), "view_size: "),
        (
            ("--set", "views.augment.ratio=[0.9,1.1]"),
            "views.augment has no effect: a single view is",
        ),
        (
            ("--masks-from", "m", "--set", "masks.threshold=0.5"),
            "masks.threshold has no effect: masks comes from m.",
        ),
        (
            ("--dense-from", "d", "--dense-features", "kk", "--dense-size", "64"),
            "dense_size has no effect: dense comes from d. Leave out dense_size, dense_features, or the folder.",
        ),
        (("--dense-from", "d", "--mask-teacher", "RN50"), "mask_teacher has no effect: dense"),
        (("--stage", "tokens"), "There is no stage 'tokens'"),
        (("--stage", "python:nowhere:Stage"), "cannot be imported"),
        (
            ("--dataset", "shapes-renamed", "--stage", "captions"),
            "--stage captions: shapes-renamed has nothing for it",
        ),
        (("--stage", "dense", "--dense", "none"), "--stage dense: shapes has nothing for it, or"),
    ],
)
def test_of_a_build(tmp_path, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    assert says in refused(*BUILD, *options)
    assert list(tmp_path.iterdir()) == []


def test_more_classes_than_a_cache_holds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "classes.yaml").write_text(f"classes: {[f'c{i}' for i in range(255)]}")
    for verb in ("build", "plan"):
        said = refused("cache", verb, "--dataset", ".")
        assert ". has 255 classes; a cache holds label maps of at most 254." in said


def test_an_option_without_effect_beside_imported_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("text.npy", np.ones((8, 8), np.float32))
    for more, key in (
        (("--clean-names",), "clean_names"),
        (("--templates", "imagenet80"), "templates"),
    ):
        said = refused(*BUILD, "--text-embeddings", "text.npy", *more)
        assert said == f"text.{key} has no effect: the embeddings are imported."


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--root", "."), "--root has no effect without --split-file"),
        (("--out", "s3://bucket/x"), "is built on a local disk"),
        (("--workers", "2", "--scheduler", "tcp://x:1"), "--workers has no effect beside"),
    ],
)
def test_of_a_derivation(tmp_path, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    path = write_cache(tmp_path / "a.zarr")
    before = contents(tmp_path)
    derive = ("cache", "derive", str(path), "--out", "b.zarr", *options)
    assert says in refused(*derive)
    assert contents(tmp_path) == before


CHOICES = (
    *("--teacher", "ViT-B-32", "--pretrained", "random", "--views", "3", "--dense", "int8"),
    *("--mask-teacher", "RN50", "--mask-pretrained", "random"),
    *("--dense-size", "64", "--dense-features", "value", "--templates", "imagenet80"),
    *("--method", "clip-to-seg", "--stage", "dense"),
    *("--clean-names", "--split", "val", "--split-file", "split.yaml", "--limit", "5"),
    *("--batch-size", "3", "--block-rows", "7", "--recipe", "best", "--set", "seed=9"),
)
IMPORTED = (
    *("--text-embeddings", "text.npy", "--unchecked-text", "--config", "config.yaml"),
    *("--no-labels", "--dense-from", "features", "--masks-from", "masks"),
)
"""Options of a build, each with a value that is not its default."""
ELSEWHERE = {"--root", "--out", "--workers", "--scheduler", "--update", "--append", "--json"}
"""Options that do not decide what is built."""


class Asked(Exception):
    """What a command asks the pipeline for, which does not begin."""


def asked(monkeypatch, command, *options):
    def ask(source, request, *_):
        raise Asked(source.identity(source.ids), source.unseen, request)

    monkeypatch.setattr("c2s_pipeline.build.builder.build", ask)
    monkeypatch.setattr("c2s_pipeline.build.plan.plan_build", ask)
    result = CliRunner().invoke(app, ("cache", command, "--dataset", "shapes", *options))
    assert isinstance(result.exception, Asked), (result.output, result.exception)
    return result.exception.args


def test_a_plan_is_asked_for_what_a_build_is(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    np.save("text.npy", np.ones((8, 8), np.float32))
    (tmp_path / "split.yaml").write_text("unseen: [0, 1]\n")
    (tmp_path / "config.yaml").write_text("seed: 8\n")
    build = get_command(app).commands["cache"].commands["build"]
    takes = {param.opts[0] for param in build.params} - ELSEWHERE - {"--dataset"}
    assert {word for word in CHOICES + IMPORTED if word.startswith("--")} == takes
    for options in (CHOICES, IMPORTED):
        planned = asked(monkeypatch, "plan", *options)
        assert planned == asked(monkeypatch, "build", *options)
        assert planned[-1].seed != 0


@pytest.mark.parametrize(
    ("command", "content", "key"),
    [
        (BUILD, "teacher: python:spy:T\n", "teacher"),
        (BUILD, "mask_teacher: python:spy:T\n", "mask_teacher"),
        (BUILD, "stages: [images, 'python:spy:T']\n", "stages"),
        (["masks", "score", "--dataset", "shapes"], "teacher: python:spy:T\n", "teacher"),
        (["cache", "derive", "CACHE", "--out", "d.zarr"], "teacher: python:spy:T\n", "teacher"),
        (["train", "--cache", "CACHE"], "teacher_weights: python:spy:T\n", "teacher_weights"),
        (["predict", "x.png", "--out", "o"], "teacher_weights: python:spy:T\n", "teacher_weights"),
        (
            ["ablate", "--cache", "CACHE"],
            "rows: [{name: a, build: {teacher: 'python:spy:T'}}]\n",
            "rows.build.teacher",
        ),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else str(value).strip(),
)
def test_no_file_of_settings_names_code(
    c2s, tiny_cache, tmp_path, monkeypatch, command, content, key
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "spy.py").write_text(
        "from pathlib import Path\nPath('executed').touch()\nclass T: ...\n"
    )
    (tmp_path / "f.yaml").write_text(content)
    words = [str(tiny_cache) if word == "CACHE" else word for word in command]
    code, out, err = c2s(*words, "--grid" if command[0] == "ablate" else "--config", "f.yaml")
    assert (code, out) == (2, "")
    assert f"f.yaml: {key} is code, python:spy:T, which is not imported because a file" in err
    assert not (tmp_path / "executed").exists()


@pytest.mark.slow
def test_an_update_for_another_method_keeps_what_is_there(tmp_path):
    """Whatever options the cache had been built with beside those of its root; and it equals a build for both."""
    c2s = command(tmp_path)
    few = ("--limit", 4, "--block-rows", 3, "--recipe")
    dense = ("--dense-size", 128, "--dense-features", "value")
    c2s(*BUILD, *few, "best", *dense, "--out", "a.zarr")
    c2s(*BUILD, *few, "paper", "--method", "clip-rc", "--out", "a.zarr", "--update")
    both = ("--method", "clip-to-seg", "--method", "clip-rc")
    c2s(*BUILD, *few, "best", *dense, *both, "--out", "b.zarr")
    assert contents(tmp_path / "a.zarr") == contents(tmp_path / "b.zarr")
    facts = json.loads(c2s("cache", "info", "a.zarr", "--json"))
    assert {"clip-to-seg", "clip-rc"} <= set(facts["methods"])
    # What is said is taken: it changes what is there.
    c2s(*BUILD, *few, "paper", "--method", "clip-to-seg", "--out", "a.zarr", "--update")
    manifest = open_cache(tmp_path / "a.zarr").manifest
    assert manifest.stage("masks").settings["threshold"] == 0.7
    assert manifest.teacher.dense_features == "plain"
    assert "tower" in manifest.stage_names


def test_an_update_asks_again_for_what_was_imported():
    imported = tiny_manifest()
    masks = imported.stage("masks").model_copy(update={"given": {"digest": ["0" * 64]}})
    stages = tuple(masks if stage.name == "masks" else stage for stage in imported.stages)
    fields = {name: getattr(imported, name) for name in Manifest.model_fields}
    request = build_request(stages=("images", "labels"))
    with pytest.raises(ConfigError, match="The stage masks of the cache was imported"):
        request.with_stages_of(Manifest(**fields | {"stages": stages}))
    kept = request.with_stages_of(imported)
    assert set(kept.asked()) == {*imported.stage_names, "images", "labels"}
