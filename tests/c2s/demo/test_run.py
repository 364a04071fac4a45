"""The demo from end to end, at a fraction of its length."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from c2s.demo import run as demo

pytestmark = pytest.mark.slow
SHORT = ("iterations=2", "batch_size=4", "warmup=1")


def test_the_demo_writes_its_table_and_picture(tmp_path, capsys):
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
    out = capsys.readouterr().out
    assert "paper" in out
    assert "distillation" in out
