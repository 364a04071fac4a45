"""One cache of real COCO-Stuff photos and a full-size ViT-B-16 of random weights serves all four methods."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from in_process import command
from PIL import Image

from c2s.methods.registry import METHODS, method_class
from c2s_cache import open_cache
from c2s_cache.integrity import verify

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]
STEPS = ("--iterations", 2, "--batch-size", 2, "--workers", 0)
OWN = {
    "clip-to-seg": ("--student", "segformer-b0"),
    "clip-rc": ("--set", "image_size=256"),
    "gkc": ("--student", "mask2former:resnet18", "--set", "image_size=256"),
    "zeroseg": ("--set", "image_size=224"),
}
"""Students and views that two cores train in seconds."""
FIRST = {"voc-bg": "aeroplane", "coco-object": "person"}
"""First class beside background."""


def test_one_cache_serves_all_four_methods(tmp_path: Path, shared_data: Path) -> None:
    c2s = command(tmp_path, shared_data)
    torch.manual_seed(0)
    torch.save(open_clip.create_model("ViT-B-16").state_dict(), tmp_path / "vit_b_16.pt")
    methods = [word for name in METHODS for word in ("--method", name)]
    build = ("cache", "build", "--dataset", "coco-stuff", "--pretrained", "vit_b_16.pt", *methods)
    c2s(*build, "--set", "view_size=256", "--out", "coco.zarr")
    cache = open_cache(tmp_path / "coco.zarr")
    assert verify(cache) == []
    assert (cache.manifest.rows, cache.quarantine) == (13, [])
    assert "nothing to do" in c2s(*build, "--set", "view_size=256", "--out", "coco.zarr")
    for name in METHODS:
        assert set(method_class(name).stages) <= set(cache.manifest.stage_names)
        c2s("train", "--cache", "coco.zarr", "--method", name, "--name", name, *OWN[name], *STEPS)
        log = (tmp_path / "runs" / name / "metrics.jsonl").read_text().splitlines()
        assert log
        assert all(np.isfinite(json.loads(line)["loss"]) for line in log)
        shown = json.loads(
            c2s(
                *("eval", "--run", f"runs/{name}", "--dataset", "coco-stuff"),
                *("--limit", 1, "--mode", "whole", "--json"),
            )
        )
        assert len(shown["classes"]) == 171
        photo = next((shared_data / "coco_photos/images").iterdir())
        words = ("--classes", "cat, tree, sky", "--mode", "whole", "--out", f"out/{name}")
        c2s("predict", photo, "--run", f"runs/{name}", *words)
        with Image.open(tmp_path / f"out/{name}/{photo.stem}.png") as labels:
            assert set(np.unique(np.array(labels))) <= {0, 1, 2}
    for data, classes in (("voc-bg", 21), ("coco-object", 81)):
        names = ("--vocabulary", "names", "--background", "threshold", "--mode", "whole")
        asked = ("eval", "--run", "runs/zeroseg", "--dataset", data, *names)
        shown = json.loads(c2s(*asked, "--limit", 1, "--json"))
        assert [each["name"] for each in shown["classes"]][:2] == ["background", FIRST[data]]
        assert len(shown["classes"]) == classes
