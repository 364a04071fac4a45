"""`c2s masks score` on a few Shapes scenes with the bundled teacher."""

from __future__ import annotations

import csv
import json

import pytest

from c2s.shapes.scenes import SEEN
from c2s_cache.errors import ConfigError

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
