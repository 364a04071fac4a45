"""The splits of one's own folder: lists, folders, and files that say which classes are unseen."""

from __future__ import annotations

import os

import numpy as np
import pytest
from official_trees import write_classes

from c2s.datasets import load_dataset
from c2s.datasets.check import check_split
from c2s_cache import ConfigError, DataError


def test_splits_from_lists_and_from_folders(folder):
    (folder / "val.txt").write_text("b\n")
    (folder / "train.txt").write_text("a.JPG\nc\n")
    dataset = load_dataset(str(folder))
    assert dataset.splits == ("train", "val")
    assert dataset.split("train").ids == ("a", "c")
    write_classes(folder, classes=["cat", "dog", "grass"], splits={"holdout": "val.txt"})
    assert load_dataset(str(folder)).split("holdout").ids == ("b",)

    write_classes(folder, classes=["cat", "dog", "grass"])
    for name in ("train", "val"):
        (folder / f"{name}.txt").unlink()
        for kind, files in (("images", "a.JPG"), ("masks", "a.png")):
            (folder / kind / name).mkdir()
            os.link(folder / kind / files, folder / kind / name / files)
    assert load_dataset(str(folder)).split("val").ids == ("a",)


def test_a_split_file_replaces_the_unseen_classes(tmp_path):
    file = tmp_path / "split.yaml"
    file.write_text("unseen: [wall, 3, traffic light]\n")
    dataset = load_dataset("ade20k", split_file=file)
    assert [dataset.classes[i] for i in dataset.unseen] == ["wall", "floor", "traffic light"]
    file.write_text("unseen: []\n")
    assert load_dataset("voc", split_file=file).unseen == ()
    file.write_text(f"unseen: {list(range(20))}\n")
    assert load_dataset("voc", split_file=file).unseen == tuple(range(20))
    file.write_text("unseen: [star]\n")
    shapes = load_dataset("shapes", split_file=file)
    assert shapes.split("train").unseen == shapes.unseen == (shapes.classes.index("star"),)
    for text, message in (
        ("seen: [wall]", "expected the one key `unseen`"),
        ("unseen: wall", "must be a list"),
        ("unseen: [wal]", "Did you mean 'wall'"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            load_dataset("ade20k", split_file=file)


def test_each_split_may_have_folders_of_its_own(folder):
    (folder / "images").rename(folder / "train")
    (folder / "masks").rename(folder / "trainannot")
    folders = {"images": "train", "masks": "trainannot"}
    write_classes(folder, classes=["cat", "dog", "grass"], train=folders)
    dataset = load_dataset(str(folder))
    assert dataset.splits == ("train",)
    image, labels = dataset.split("train")[0].read()
    assert labels.shape == image.shape[:2]
    write_classes(folder, classes=["cat", "dog", "grass"], train=folders, images="train")
    with pytest.raises(ConfigError, match="go with neither `images`, `masks` nor `splits`"):
        load_dataset(str(folder))


@pytest.mark.parametrize(
    "line",
    [
        "a",
        "a.JPG",
        "images/a.JPG",
        "/data/mine/images/a.JPG",
        "images\\a.JPG",
        "images/a.JPG masks/a.png",
        "/SegNet/mine/images/a.JPG /SegNet/mine/masks/a.png",
        "a.JPG\ta.png",
        "a masks/a.png",
    ],
)
def test_lists_of_the_usual_forms(line, folder):
    (folder / "train.txt").write_text(f"{line}\n\nb\r\n")
    split = load_dataset(str(folder)).split("train")
    assert split.ids == ("a", "b")
    assert check_split(split).problems == []


def test_a_list_may_pair_an_image_with_any_label_map(folder):
    want = load_dataset(str(folder)).split("train").labels("a")
    (folder / "masks/a.png").rename(folder / "masks/another name.png")
    (folder / "train.txt").write_text("images/a.JPG masks/another name.png\n")
    split = load_dataset(str(folder)).split("train")
    np.testing.assert_array_equal(split.labels("a"), want)
    first = split.identity(split.ids)
    (folder / "train.txt").write_text("images/a.JPG masks/b.png\n")
    assert load_dataset(str(folder)).split("train").ids == ("a",)
    assert first["files"]
    (folder / "train.txt").write_text("images/a.JPG masks/nowhere.png\n")
    with pytest.raises(DataError, match=r"label map masks/nowhere\.png of a, which is not there"):
        _ = load_dataset(str(folder)).split("train").ids
    (folder / "train.txt").write_text("a 1\nb -1\n")
    with pytest.raises(DataError, match=r"a number behind its images \('a 1'\)"):
        _ = load_dataset(str(folder)).split("train").ids


def test_names_with_spaces_in_a_list(folder):
    (folder / "images/a.JPG").rename(folder / "images/my photo.JPG")
    (folder / "masks/a.png").rename(folder / "masks/my photo.png")
    (folder / "train.txt").write_text("my photo.JPG\nb.JPG\n")
    assert load_dataset(str(folder)).split("train").ids == ("b", "my photo")
