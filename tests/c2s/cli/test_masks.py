"""`c2s masks score` on a few Shapes scenes with the bundled teacher."""

from __future__ import annotations

import csv
import json

import pytest

from c2s.shapes.defaults import TEACHER
from c2s.shapes.scenes import SEEN
from c2s.testing import shapes
from c2s_cache.errors import ConfigError
from c2s_pipeline.teachers.base import TeacherSpec
from c2s_pipeline.teachers.registry import load_teacher

SCORE = ("masks", "score", "--dataset", "shapes", "--split", "dev", "--limit", "2")


@pytest.mark.slow
def test_a_sweep_as_json_csv_and_plot(tmp_path, invoke):
    files = [tmp_path / f"scores{suffix}" for suffix in (".json", ".csv", ".png")]
    out = [part for file in files for part in ("--out", file)]
    sweep = ("--dense-features", "plain,kk", "--thresholds", "0.6,0.8", "--windows", "3+7,3")
    facts = json.loads(invoke(*SCORE, *sweep, "--json", *out))
    assert json.loads(files[0].read_text()) == facts
    rows = list(csv.DictReader(files[1].read_text().splitlines()))
    assert len(rows) == len(facts["rows"]) == 2 * 2 * 2
    settings = {(r["features"], tuple(r["windows"]), r["threshold"]) for r in facts["rows"]}
    assert len(settings) == 8
    for row, line in zip(facts["rows"], rows, strict=True):
        assert float(line["unseen_mIoU"]) == row["unseen"]["mIoU"]
        assert 0 <= row["all"]["mIoU"] <= 100
        assert row["all"]["masks"] == row["seen"]["masks"] + row["unseen"]["masks"]
    assert facts["paper"]["unseen"] == 58.5
    assert files[2].read_bytes().startswith(b"\x89PNG")


def test_the_table_names_the_settings(invoke):
    text = invoke(*SCORE, "--thresholds", "0.7")
    assert "plain" in text
    assert "3+7" in text


def test_other_classes_may_be_the_unseen_ones(tmp_path, invoke):
    """Unseen masks are then those that were seen, and the other way round."""
    (tmp_path / "split.yaml").write_text(f"unseen: [{', '.join(SEEN)}]")
    own = json.loads(invoke(*SCORE, "--thresholds", "0.7", "--json"))["rows"][0]
    other = ("--split-file", tmp_path / "split.yaml")
    swapped = json.loads(invoke(*SCORE, *other, "--thresholds", "0.7", "--json"))["rows"][0]
    counts = [(r["unseen"]["masks"], r["seen"]["masks"]) for r in (own, swapped)]
    assert counts[1] == counts[0][::-1]
    assert counts[0][0] != counts[0][1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--thresholds", "high"), "--thresholds 'high'"),
        (("--thresholds", "7"), "threshold: Input should be less than or equal to 1"),
        (("--windows", "3+x"), "--windows"),
        (("--windows", "40"), "no window of .40,. fits"),
        (("--dense-features", "best"), "dense_features"),
        (("--out", "x.txt"), "must end in one of"),
    ],
)
def test_wrong_usage_is_one_sentence(arguments, message, invoke):
    with pytest.raises(ConfigError, match=message):
        invoke(*SCORE, *arguments)


def test_the_table_says_which_windows_end_with_the_grid(invoke):
    text = invoke(*SCORE, "--thresholds", "0.7", "--set", "masks.flush=true")
    assert "3+7 flush" in text


def stored(stages, **masks):
    """A cache of four scenes of Shapes."""
    manifest = shapes.manifest_of(stages, {"masks": masks})
    values, _ = shapes.computed(manifest, shapes.scenes())
    return shapes.written(manifest, values).address


@pytest.mark.slow
def test_caches_are_compared_in_one_table(tmp_path, invoke):
    """Those masks that they hold, or those that settings make of what they hold; each row says of which cache."""
    stages = ("dense", "masks", "labels")
    caches = [stored(stages, threshold=threshold) for threshold in (0.7, 0.95)]
    train = ("masks", "score", "--dataset", "shapes", "--split", "train", "--json")
    both = [part for path in caches for part in ("--cache", path)]
    held = json.loads(invoke(*train, *both))["rows"]
    assert [(row["cache"], row["threshold"]) for row in held] == [
        (caches[0], 0.7),
        (caches[1], 0.95),
    ]
    assert held[0]["unseen"] != held[1]["unseen"]
    alone = json.loads(invoke(*train, "--cache", caches[1]))["rows"]
    assert alone == held[1:]
    file = tmp_path / "scores.csv"
    swept = json.loads(invoke(*train, *both, "--thresholds", "0.7,0.95", "--out", file))["rows"]
    assert [row["cache"] for row in swept] == [path for path in caches for _ in range(2)]
    assert [row["unseen"] for row in swept] == 2 * [row["unseen"] for row in held]
    lines = list(csv.DictReader(file.read_text().splitlines()))
    assert [line["cache"] for line in lines] == [row["cache"] for row in swept]
    table = invoke(*train[:-1], *both)
    assert all(path in table for path in caches)
    assert caches[0] not in invoke(*train[:-1], "--cache", caches[0])


@pytest.mark.slow
def test_dense_features_are_compared_without_a_teacher(invoke, monkeypatch):
    """Caches of other dense features score as the teacher at hand does, each by its name."""
    train = ("masks", "score", "--dataset", "shapes", "--split", "train", "--json")
    sweep = ("--thresholds", "0.6,0.8")
    want = json.loads(
        invoke(*train, *sweep, "--limit", shapes.ROWS, "--dense-features", "plain,value")
    )["rows"]
    options = []
    for features in ("plain", "value"):
        teacher = load_teacher(TeacherSpec(TEACHER, dense_features=features))
        monkeypatch.setattr(shapes, "teacher", lambda teacher=teacher: teacher)
        options += ["--cache", stored(("dense", "masks", "labels"))]
    monkeypatch.setattr("c2s_pipeline.build.builder.load_teacher", None)
    found = json.loads(invoke(*train, *sweep, *options))["rows"]
    keys = ("features", "threshold", "unseen")
    assert [[row[k] for k in keys] for row in found] == [[row[k] for k in keys] for row in want]
    with pytest.raises(ConfigError, match=r"c2s cache derive .* --set dense_features=value"):
        invoke(*train, *options, "--dense-features", "value")


@pytest.mark.parametrize(
    "option", [("--dense-size", "128"), ("--teacher", "ViT-B-16"), ("--dense-features", "kk")]
)
def test_options_that_stored_masks_cannot_obey_are_refused(option, tmp_path, invoke):
    with pytest.raises(ConfigError, match=f"so {option[0]} cannot act"):
        invoke(*SCORE[:-2], "--cache", tmp_path, *option)


def test_a_teacher_for_a_check_that_has_none_is_refused(tmp_path, invoke):
    with pytest.raises(ConfigError, match="cannot act"):
        invoke("cache", "verify", tmp_path, "--quick", "--teacher", "ViT-B-16")


def test_weights_beside_the_bundled_teacher_are_refused(tmp_path, invoke):
    build = ("cache", "build", "--dataset", "shapes", "--out", tmp_path / "x.zarr")
    with pytest.raises(ConfigError, match="--pretrained random cannot act"):
        invoke(*build, "--pretrained", "random")
    assert not (tmp_path / "x.zarr").exists()
