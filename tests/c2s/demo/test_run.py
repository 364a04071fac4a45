"""The demo from end to end, at a fraction of its length."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from c2s.demo import run as demo
from c2s.demo.gallery import labelled_parts, painted
from c2s.shapes.scenes import CLASSES, RENAMED

SHORT = ("iterations=2", "batch_size=4", "warmup=1")


@pytest.mark.slow
def test_the_demo_writes_its_table_and_pictures(tmp_path, capsys):
    demo.run(1, tmp_path, images=48, limit=12, settings=SHORT)
    results = json.loads((tmp_path / "results.json").read_text())
    assert [row["name"] for row in results["rows"]] == [
        "baseline",
        "latent",
        "distillation",
        "both",
    ]
    for row in results["rows"]:
        assert all(0 <= row[key] <= 100 for key in ("sIoU", "uIoU", "hIoU"))
        assert row["seconds"] > 0
        assert (row["method"], row["seed"]) == ("clip-to-seg", 0)
        assert row["mIoU"] is not None
    assert results["recipe"] == "best"
    assert results["build"]["images"] == 48
    assert results["teacher"]["region_top1"] > 90
    assert {"python", "torch", "zarr"} <= set(results["versions"])
    with Image.open(tmp_path / "predictions.png") as picture:
        assert min(picture.size) > 500
        assert (
            picture.width / picture.height > 7 / 6
        )  # image, truth, pseudo mask, four rows; five scenes
    assert list(results["by_words"]) == ["names", "general synonyms", "held-out synonyms"]
    (by_names,) = results["by_words"]["names"]
    both = next(row for row in results["rows"] if row["name"] == "both")
    assert by_names == {key: both[key] for key in ("sIoU", "uIoU", "hIoU")}
    for name in ("gallery.png", "ladder.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 300
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 50
    out = capsys.readouterr().out
    assert "paper" in out
    assert "distillation" in out
    assert "held-out synonyms: round, ..." in out


def test_parts_are_named_where_they_are():
    guess = np.zeros((64, 64), np.int64)
    guess[:, 40:] = 3
    guess[0, 0] = 5  # too small for a word
    found = {name: (x, y) for x, y, name in labelled_parts(guess)}
    assert found.keys() == {RENAMED[0], RENAMED[3]}
    for name, (x, y) in found.items():
        assert RENAMED[guess[int(y), int(x)]] == name


def test_latent_classes_have_colours_of_their_own():
    pseudo = np.full((4, 4), -1, np.int16)
    pseudo[0], pseudo[1], pseudo[2] = 3, len(CLASSES), len(CLASSES) + 1
    rows = [np.unique(row, axis=0) for row in painted(pseudo)]
    assert [len(row) for row in rows] == [1, 1, 1, 1]
    assert len({tuple(row[0]) for row in rows}) == 4
    assert rows[3].tolist() == [[255, 255, 255]]
