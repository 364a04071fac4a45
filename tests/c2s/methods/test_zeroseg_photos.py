"""Photos in ImageNet's layout, without labels and classes: planned, built, described, verified, trained on, scored by
words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from c2s.ablation import cell
from c2s.ablation.cell import Scoring
from c2s.cli.app import app
from c2s.methods.zeroseg.config import THRESHOLDS
from c2s.shapes.defaults import TEACHER
from c2s.shapes.scenes import render
from c2s_cache import ConfigError

pytestmark = pytest.mark.slow


def c2s(*arguments):
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == 0, (arguments, done.output, done.exception)
    return done.stdout


def pixels(file):
    with Image.open(file) as picture:
        return np.asarray(picture)


def test_from_a_folder_of_photos_to_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(12):
        file = tmp_path / f"net/train/n{i % 3:08d}/n{i % 3:08d}_{i}.JPEG"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(render("train", i).image).save(file, quality=95)
    data = ("--dataset", "net/train", "--method", "zeroseg", "--teacher", TEACHER)
    size = ("--set", "view_size=64", "--block-rows", 6)
    plan = json.loads(c2s("cache", "plan", *data, *size, "--sample", 2, "--json"))
    assert "cells" in json.dumps(plan)
    c2s("cache", "build", *data, *size, "--out", "net.zarr")
    info = json.loads(c2s("cache", "info", "net.zarr", "--json"))
    assert info["images"] == 12
    assert "zeroseg" in info["methods"]
    c2s("cache", "verify", "net.zarr", "--teacher", TEACHER)
    c2s(
        *("train", "--cache", "net.zarr", "--method", "zeroseg", "--recipe", "best"),
        *("--student", "zeroseg-shapes", "--iterations", 3, "--batch-size", 4, "--workers", 0),
        *("--set", "image_size=64", "--set", "method.decoder.layers=1", "--name", "net"),
    )
    rows = [json.loads(r) for r in (tmp_path / "runs/net/metrics.jsonl").read_text().splitlines()]
    assert {"used", "distinct", "entropy", "cosine", "locate", "patches"} <= rows[-1].keys()
    scored = json.loads(
        c2s(
            *("eval", "--run", "runs/net", "--dataset", "shapes-things", "--limit", 4, "--json"),
            *("--background", "threshold", "--background-threshold", "0.2,0.9"),
        )
    )
    assert [each["background_threshold"] for each in scored["sweep"]] == [0.2, 0.9]
    photo = next((tmp_path / "net/train").rglob("*.JPEG"))
    c2s("predict", photo, "--run", "runs/net", "--classes", "star, ring, sand", "--out", "out")
    found = pixels(tmp_path / f"out/{photo.stem}.png")
    assert found.shape == (64, 64)
    assert found.max() <= 2
    c2s("fold", "--run", "runs/net", "--classes", "star, ring, sand", "--out", "model")
    c2s("predict", photo, "--run", "model", "--out", "folded")
    assert np.array_equal(pixels(tmp_path / f"folded/{photo.stem}.png"), found)


def test_a_cache_of_photos_alone_is_ablated_on_a_labelled_data_set(tmp_path, monkeypatch):
    """By the names of its classes; the background by the method's threshold, where it has one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for i in range(6):
        Image.fromarray(render("train", i).image).save(tmp_path / f"photos/{i}.png")
    data = ("--dataset", "photos", "--method", "zeroseg", "--teacher", TEACHER)
    c2s("cache", "build", *data, "--set", "view_size=64", "--out", "photos.zarr")
    (tmp_path / "one.yaml").write_text("rows: [{name: one}]")
    asked = (
        *("ablate", "--cache", "photos.zarr", "--method", "zeroseg", "--recipe", "best"),
        *("--grid", "one.yaml", "--student", "zeroseg-shapes", "--iterations", 2),
        *("--batch-size", 2, "--set", "image_size=64", "--set", "method.decoder.layers=1"),
    )
    refused = CliRunner().invoke(app, [str(a) for a in asked])
    assert isinstance(refused.exception, ConfigError)
    assert "photos.zarr has no classes to score by." in str(refused.exception)
    facts = json.loads(c2s(*asked, "--dataset", "shapes-things", "--limit", 4, "--json"))
    ((line,),) = (row["runs"] for row in facts["grids"][0]["rows"])
    score = ("eval", "--run", line["run"], "--dataset", "shapes-things", "--limit", 4, "--json")
    assert line["mIoU"] == json.loads(c2s(*score))["mIoU"]

    threshold = ("--background", "threshold", "--background-threshold", "0.9")
    want = json.loads(c2s(*score, *threshold))["mIoU"]
    assert want != line["mIoU"]
    monkeypatch.setitem(THRESHOLDS, "shapes-things", 0.9)
    found = cell._evaluate(Path(line["run"]), Scoring("shapes-things", limit=4), across=False)
    assert found["mIoU"] == want
