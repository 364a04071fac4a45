"""Folders of images with what is no image: links in circles, pipes, sockets, what may not be listed."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from c2s.datasets import FolderSplit, load_dataset
from c2s.datasets.coco_stuff import DESCRIPTOR
from c2s_cache import ConfigError, DataError

IMAGES, LABELS = "images/train2017", "stuffthingmaps_trainval2017/train2017"


@pytest.fixture
def root(coco_tree):
    return coco_tree(count=3)


def ids(root):
    return FolderSplit(DESCRIPTOR, root, "train").ids


@pytest.mark.parametrize("targets", [(".", "."), ("..", "../.."), ("/", "."), ("one", "two")])
def test_links_in_circles_end(root, targets):
    whole = ids(root)
    for below in (IMAGES, LABELS):
        for name, target in zip(("two", "one"), targets, strict=True):
            (root / below / name).symlink_to(target)
    assert ids(root) == whole


def test_a_linked_folder_belongs_to_it_though_it_leads_back(root, tmp_path):
    whole = ids(root)
    for below in (IMAGES, LABELS):
        other = tmp_path / "elsewhere" / below
        other.mkdir(parents=True)
        for file in (root / below).iterdir():
            shutil.copy(file, other)
        (other / "back").symlink_to(root / below)
        (root / below / "more").symlink_to(other)
    assert set(ids(root)) == {*whole, *(f"more/{i}" for i in whole)}


def test_a_pipe_or_socket_among_the_images_is_named(root, tmp_path, monkeypatch):
    monkeypatch.chdir(root / IMAGES)
    os.mkfifo("a.jpg")
    with pytest.raises(DataError, match=r"a\.jpg is no regular file, but a pipe"):
        ids(root)
    Path("a.jpg").unlink()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("b.jpg")
        with pytest.raises(DataError, match=r"b\.jpg is no regular file"):
            ids(root)
    Path("b.jpg").unlink()
    Path("c.jpg").symlink_to("/dev/zero")
    with pytest.raises(DataError, match=r"c\.jpg is no regular file"):
        ids(root)
    Path("c.jpg").unlink()
    os.mkfifo("notes")  # no image's name
    monkeypatch.chdir(root / LABELS)
    assert len(ids(root)) == 3
    os.mkfifo("x.png")
    with pytest.raises(DataError, match=r"x\.png is no regular file"):
        ids(root)


def test_a_folder_that_may_not_be_listed_is_an_error(root, monkeypatch):
    (root / IMAGES / "locked").mkdir()
    real = os.scandir

    def scandir(path):
        if str(path).endswith("locked/"[:-1]):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"locked cannot be listed \(Permission denied\)"):
        ids(root)


@pytest.mark.parametrize("drawn", [False, True])
def test_a_grey_photo_called_as_one_elsewhere_is_no_label_map(tmp_path, drawn):
    """It has 256 levels at most, too, but no areas of one; a label map of as many classes has."""
    y, x = np.mgrid[:64, :64]
    waves = 127 * (1 + np.sin(y / 5) * np.cos(x / 7))
    noise = np.random.default_rng(0).normal(0, 6, waves.shape)
    grey = (waves + noise).clip(0, 255).astype(np.uint8)
    if drawn:
        grey = np.repeat(np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16), 4, 0), 4, 1)
    assert len(np.unique(grey)) > 150
    (tmp_path / "b").mkdir()
    Image.fromarray(grey).save(tmp_path / "p1.png")
    colours = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "b/p1.jpg")
    if drawn:
        with pytest.raises(ConfigError, match=r"label maps .* such as p1\.png"):
            load_dataset(str(tmp_path))
    else:
        assert set(load_dataset(str(tmp_path)).split("train").ids) == {"p1", "b/p1"}
