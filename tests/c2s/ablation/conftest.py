"""A small grid that trains in seconds, and a folder of pictures to score on."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from PIL import Image
from tiny_cache import CLASSES, UNSEEN

from c2s.ablation.cell import Scoring
from c2s.ablation.plan import Request
from c2s.methods.grid import Grid

FAST = {
    "student": "shapes-net",
    "iterations": 4,
    "batch_size": 2,
    "workers": 0,
    "log_every": 1,
    "checkpoint_every": 1,
    "accelerator": "cpu",
    "method": {"heads": 4},
}


@pytest.fixture
def scoring(tmp_path):
    """Two labelled pictures with the classes of the tiny cache, in a folder of the user's own."""
    rng, root = np.random.default_rng(0), tmp_path / "pictures"
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    for name in "ab":
        labels = rng.integers(0, len(CLASSES), (32, 32)).astype(np.uint8)
        Image.fromarray(np.stack([labels * 20] * 3, -1)).save(root / f"images/{name}.png")
        Image.fromarray(labels).save(root / f"masks/{name}.png")
    (root / "train.txt").write_text("a\n")
    (root / "val.txt").write_text("a\nb\n")
    classes = {"classes": list(CLASSES), "unseen": [CLASSES[i] for i in UNSEEN]}
    (root / "classes.yaml").write_text(yaml.safe_dump(classes))
    return Scoring(str(root))


@pytest.fixture
def request_(tiny_cache, tmp_path):
    return Request(str(tiny_cache), tmp_path / "out")


@pytest.fixture
def grid():
    """Three rows, two of them the same settings."""
    rows = [
        {"name": "full", "paper": (50, 50, 50)},
        {"name": "plain", "train": {"method": {"latent_embedding": False}}, "paper": (40, 50, 30)},
        {"name": "full again"},
    ]
    return Grid.model_validate({"name": "small", "rows": rows, "seeds": 2, "train": FAST})
