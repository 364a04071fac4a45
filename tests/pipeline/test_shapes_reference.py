"""What a cache of Shapes says of a scene, by a straight loop over open_clip: one image, one region and one sentence at
a time, and nothing of the pipeline but the grid of latent classes, which other tests recompute."""

from __future__ import annotations

import io

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from c2s.shapes.defaults import TEACHER
from c2s.shapes.scenes import CLASSES, UNSEEN, render
from c2s.testing import shapes

STAGES = ("images", "labels", "views", "global_cls", "masks", "regions", "text")
PATHS = ("images/data", "labels/data", "global_cls/cls", "masks/grid", "regions/id", "regions/cls")
NONE = 255
SMALLEST = 0.0025 * 64 * 64
"""Pixels of the smallest region that has a token."""


@pytest.fixture(scope="module")
def cache():
    return shapes.shapes_cache(STAGES)


@pytest.fixture(scope="module")
def clip():
    """open_clip's own model, preprocessing and tokenizer."""
    model, _, preprocess = open_clip.create_model_and_transforms(TEACHER)
    return model.eval(), preprocess, open_clip.get_tokenizer(TEACHER)


def assert_token(stored, clip, image):
    """float16 [D] is the embedding of the picture, rounded: within one unit in the last place of the largest value,
    as open_clip's sums are taken in another order for another number of images."""
    model, preprocess, _ = clip
    with torch.inference_mode():
        exact = model.encode_image(preprocess(image)[None])[0].numpy()
    assert stored.dtype == np.float16
    unit = np.spacing(np.float16(np.abs(exact).max()))
    np.testing.assert_allclose(stored.astype(np.float32), exact, rtol=0, atol=float(unit))


def latent_class(grid, y, x):
    """Of a pixel: that of its cell of 8 x 8 pixels, or of the nearest cell that has one."""
    cells = [(i, j) for i in range(8) for j in range(8) if grid[i, j] != NONE]
    if not cells:
        return None
    i, j = min(cells, key=lambda cell: (cell[0] - y // 8) ** 2 + (cell[1] - x // 8) ** 2)
    return grid[i, j]


def test_a_scene_and_its_tokens(cache, clip):
    hidden = [CLASSES.index(name) for name in UNSEEN]
    block, ids = cache.read_block(0, PATHS), cache.ids(0)
    latent = 0
    for i, name in enumerate(ids):
        scene, sample = render("train", int(name.removeprefix("train-"))), block.sample(i)
        image = Image.open(io.BytesIO(sample["images/data"].tobytes()))
        np.testing.assert_array_equal(np.asarray(image), scene.image)
        labels = np.where(np.isin(scene.labels, hidden), NONE, scene.labels)
        np.testing.assert_array_equal(sample["labels/data"].reshape(labels.shape), labels)
        assert_token(sample["global_cls/cls"], clip, image)
        pseudo = labels.astype(int)
        for y, x in np.argwhere(labels == NONE):
            found = latent_class(sample["masks/grid"], y, x)
            pseudo[y, x] = -1 if found is None else len(CLASSES) + found
        there, sizes = np.unique(pseudo[pseudo >= 0], return_counts=True)
        regions = there[sizes >= SMALLEST].tolist()
        assert sample["regions/id"].tolist() == regions
        for region, token in zip(regions, sample["regions/cls"], strict=True):
            shown = np.where((pseudo == region)[..., None], scene.image, 0)
            assert_token(token, clip, Image.fromarray(shown.astype(np.uint8)))
            latent += region >= len(CLASSES)
    assert latent > 0


def test_words(cache, clip):
    """A class is the mean direction of its sentences."""
    model, _, tokenizer = clip
    templates = cache.manifest.stage("text").settings["templates"]
    stored = cache.once("text/embeddings")
    assert len(stored) == len(CLASSES)
    for row, name in zip(stored, CLASSES, strict=True):
        with torch.inference_mode():
            said = [model.encode_text(tokenizer([t.format(name)]))[0].numpy() for t in templates]
        mean = np.mean([one / np.linalg.norm(one) for one in said], 0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), rtol=0, atol=2**-20)
