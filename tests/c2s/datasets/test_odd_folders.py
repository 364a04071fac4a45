"""Folders of images with what is no image: links in circles, pipes, sockets, what may not be listed."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest

from c2s.datasets import FolderSplit
from c2s.datasets.coco_stuff import DESCRIPTOR
from c2s_cache import DataError

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
