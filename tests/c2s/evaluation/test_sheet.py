"""The sheet of a data set: what it draws, of which images, and what it says of those that cannot be read."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from c2s.datasets import load_dataset
from c2s.evaluation.overlay import palette
from c2s.evaluation.sheet import PANEL, draw_sheet, spread


@pytest.fixture
def split(tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    half = np.zeros((100, 300), np.uint8)
    half[:, 150:] = 1
    for name in "ab":
        Image.new("RGB", (300, 100), "white").save(tmp_path / f"images/{name}.png")
        Image.fromarray(half).save(tmp_path / f"masks/{name}.png")
    (tmp_path / "classes.yaml").write_text("classes: [left, right, never]\n")
    return load_dataset(str(tmp_path)).split("train")


def test_images_are_taken_at_even_distances():
    assert spread([*"abcdefghi"], 3) == [*"aei"]
    assert spread([*"ab"], 12) == [*"ab"]


def test_photo_label_map_and_view_are_drawn_with_the_colours_of_their_classes(split):
    sheet, lost = draw_sheet(split, split.ids, 64)
    assert lost == []
    pixels = {tuple(p) for p in np.asarray(sheet).reshape(-1, 3).tolist()}
    left, right, never = (tuple(c) for c in palette(3).tolist())
    assert {left, right} <= pixels  # in the legend
    assert never not in pixels
    for colour in (left, right):  # over a white photo
        assert tuple(int(0.4 * 255 + 0.6 * c) for c in colour) in pixels
    assert (255, 0, 0) in pixels  # the box of the view


def test_the_view_is_the_square_in_the_middle(split):
    sheet, _ = draw_sheet(split, ["a"], 64, columns=1)
    view = np.asarray(sheet)[16 : 16 + PANEL, -PANEL - 6 :][:, :PANEL]
    colours = palette(3)
    mixed = [[int(0.4 * 255 + 0.6 * c) for c in colours[i].tolist()] for i in (0, 1)]
    assert abs(view[100, 5].astype(int) - mixed[0]).max() < 3
    assert abs(view[100, -5].astype(int) - mixed[1]).max() < 3


def test_what_cannot_be_read_is_said_and_the_rest_is_drawn(split):
    (split.root / "images/b.png").write_bytes(b"no photo")
    sheet, lost = draw_sheet(split, split.ids, 64)
    assert lost == ["b: image cannot be decoded (no known image format)."]
    assert sheet.size[0] > 2 * 3 * PANEL


def test_photos_alone_have_a_sheet_too(split, tmp_path):
    photos = tmp_path / "alone"
    photos.mkdir()
    Image.new("RGB", (40, 400), "white").save(photos / "x.png")
    alone = load_dataset(str(photos)).split("train")
    sheet, lost = draw_sheet(alone, alone.ids, 64)
    assert (lost, sheet.mode) == ([], "RGB")
