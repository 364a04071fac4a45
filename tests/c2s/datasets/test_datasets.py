"""Class lists and layouts."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image

from c2s.datasets import FolderSplit, ShapesSplit, load_dataset
from c2s.datasets.coco_stuff import CLASSES, DESCRIPTOR, RAW_VALUES
from c2s_cache import DataError


def test_coco_stuff_is_the_fields_split():
    assert len(CLASSES) == len(set(CLASSES)) == 171
    assert (CLASSES[0], CLASSES[79], CLASSES[80], CLASSES[170]) == (
        "person",
        "toothbrush",
        "banner",
        "wood",
    )
    assert DESCRIPTOR.unseen == (19, 23, 28, 29, 36, 51, 76, 88, 94, 112, 133, 136, 137, 157, 160)
    raw = [RAW_VALUES[i] for i in DESCRIPTOR.unseen]
    assert raw == [20, 24, 32, 33, 40, 56, 86, 99, 105, 123, 144, 147, 148, 168, 171]


def test_raw_and_train_id_forms_give_the_same_map(coco_tree):
    root = coco_tree(count=3)
    split = FolderSplit(DESCRIPTOR, root, "train")
    before = [split.labels(i) for i in split.ids]
    folder = root / "stuffthingmaps_trainval2017/train2017"
    for name, labels in zip(split.ids, before, strict=True):
        Image.fromarray(labels).save(folder / f"{name}_labelTrainIds.png")
    again = FolderSplit(DESCRIPTOR, root, "train")
    assert again.identity(again.ids)["labels"] == "labelTrainIds"
    for name, labels in zip(again.ids, before, strict=True):
        np.testing.assert_array_equal(again.labels(name), labels)


def test_a_split_travels_without_its_lists(coco_tree):
    split = FolderSplit(DESCRIPTOR, coco_tree(), "train")
    assert split.ids
    copy = pickle.loads(pickle.dumps(split))
    assert len(pickle.dumps(split)) < 20_000
    assert copy.ids == split.ids
    assert copy.identity(copy.ids) == split.identity(split.ids)


def test_identity_changes_with_the_files(coco_tree):
    root = coco_tree()
    split = FolderSplit(DESCRIPTOR, root, "train")
    before, others = split.identity(split.ids), split.identity(split.ids[1:])
    file = root / "images/train2017/000000000000.jpg"
    file.write_bytes(file.read_bytes() + b" ")
    assert split.identity(split.ids) != before
    assert split.identity(split.ids[1:]) == others


def test_label_maps_must_have_one_channel(coco_tree):
    root = coco_tree()
    file = root / "stuffthingmaps_trainval2017/train2017/000000000001.png"
    Image.new("RGB", (40, 40), "red").save(file)
    with pytest.raises(DataError, match="is a colour picture, where one of class numbers"):
        FolderSplit(DESCRIPTOR, root, "train").labels("000000000001")


def test_real_label_maps(shared_data):
    dataset = load_dataset("coco-stuff", shared_data)
    for name, count in (("train", 13), ("val", 8)):
        split = dataset.split(name)
        assert len(split) == count
        for item in split:
            image, labels = item.read()
            assert image.shape[:2] == labels.shape
            known = labels[labels != 255]
            assert known.size
            assert known.max() < 171


def test_shapes_scenes_are_what_their_source_encodes():
    split = ShapesSplit("val")
    assert set(split.unseen) <= set(range(len(split.classes)))
    item = split[3]
    image, labels = item.read()
    np.testing.assert_array_equal(image, split._scene(item.id).image)
    assert image.shape[:2] == labels.shape
    assert len(split[:5]) == 5
    train = ShapesSplit("train")
    assert split.identity(split.ids) == ShapesSplit("val").identity(split.ids)
    assert split.identity(split.ids) != train.identity(train.ids)
