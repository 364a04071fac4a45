"""The demo from end to end, at a fraction of its length."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from c2s.datasets import shapes
from c2s.demo import recipe
from c2s.demo import run as demo

pytestmark = pytest.mark.slow


def test_the_demo_writes_its_table_and_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "BUILD", {**demo.BUILD, "limit": 48, "block_rows": 24})
    monkeypatch.setitem(shapes.COUNTS, "val", 12)
    for key, value in {"iterations": 2, "batch_size": 4, "warmup": 1}.items():
        monkeypatch.setitem(recipe.TRAIN, key, value)
    demo.run(1, tmp_path)
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
    assert results["teacher"]["region_top1"] > 90
    assert {"python", "torch", "zarr"} <= set(results["versions"])
    with Image.open(tmp_path / "predictions.png") as picture:
        assert min(picture.size) > 500
    out = capsys.readouterr().out
    assert "paper" in out
    assert "distillation" in out
