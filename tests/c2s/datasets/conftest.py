"""Inputs shared by the tests of data sets."""

from __future__ import annotations

import numpy as np
import pytest
from official_trees import class_map, write_classes, write_image, write_values


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


@pytest.fixture
def folder(tmp_path, rng):
    """Three images with index masks; `folder.write(...)` writes its classes.yaml."""
    root = tmp_path / "my data"
    for name in "abc":
        labels = class_map(rng, 3)
        write_image(root / f"images/{name}.JPG", labels)
        write_values(root / f"masks/{name}.png", labels, (0, 1, 2))
    write_classes(root, classes=["cat", "dog", "grass"], unseen=["dog"])
    return root
