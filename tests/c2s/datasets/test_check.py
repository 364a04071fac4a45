"""Every kind of damage is found, named, and counted once."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from official_trees import TREES, make_ade20k, make_coco, make_voc, write_values
from PIL import Image

from c2s.datasets import load_dataset
from c2s.datasets.check import check_split, in_threads
from c2s.datasets.folder import NotThere

VOC = "VOCdevkit/VOC2012"


def check(name, root, split="train"):
    seen = []
    dataset = load_dataset(name, root)
    report = check_split(
        dataset.split(split), (2,), lambda done, total: seen.append((done, total)), 2
    )
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1))
    return report


@pytest.mark.parametrize("name", TREES)
def test_a_sound_tree_has_no_problems_and_the_right_histogram(name, tmp_path, rng):
    truth = TREES[name](tmp_path, rng)["train"]
    report = check(name, tmp_path)
    assert report.problems == []
    assert (report.images, report.is_subset) == (2, False)
    assert (report.smallest, report.largest) == ((30, 24), (30, 24))
    want = np.bincount(np.concatenate([m.reshape(-1) for m in truth.values()]), minlength=256)
    np.testing.assert_array_equal(report.pixels, want)
    facts = report.as_dict()
    assert sum(facts["pixels"].values()) + facts["ignored_pixels"] == 2 * 24 * 30
    assert set(report.absent) == {n for n, count in facts["pixels"].items() if count == 0}


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (
            lambda top: (top / "JPEGImages/2008_000002.jpg").unlink(),
            "2008_000002: the image is missing.",
        ),
        (
            lambda top: (top / "SegmentationClassAug/2008_000002.png").unlink(),
            "2008_000002: the label map is missing.",
        ),
        (
            lambda top: cut(top / "JPEGImages/2008_000002.jpg"),
            "2008_000002: image cannot be decoded",
        ),
        (
            lambda top: cut(top / "SegmentationClassAug/2008_000002.png"),
            "2008_000002.png cannot be read as a label map (image file is truncated",
        ),
        (
            lambda top: Image.new("L", (9, 9), 1).save(
                top / "SegmentationClassAug/2008_000002.png"
            ),
            "2008_000002: the label map is 9 x 9 pixels, the image 30 x 24.",
        ),
        (
            lambda top: Image.new("L", (30, 24), 21).save(
                top / "SegmentationClassAug/2008_000002.png"
            ),
            "2008_000002.png holds the label value 21, which is outside the 20 classes",
        ),
        (
            lambda top: Image.new("RGB", (30, 24), 9).save(
                top / "SegmentationClassAug/2008_000002.png"
            ),
            "2008_000002.png holds the colour (9, 0, 0), which is no class's",
        ),
    ],
)
def test_each_damage_is_one_sentence(damage, expected, tmp_path, rng):
    make_voc(tmp_path, rng)
    damage(tmp_path / VOC)
    report = check("voc", tmp_path)
    assert len(report.problems) == 1
    assert expected in str(report.problems[0])
    assert report.images == 2


def cut(file):
    file.write_bytes(file.read_bytes()[:-40])


def test_a_label_map_without_an_image_is_a_problem(tmp_path, rng):
    make_coco(tmp_path, rng)
    folder = tmp_path / "coco_stuff164k/stuffthingmaps_trainval2017/train2017"
    write_values(folder / "000000000077.png", np.zeros((4, 4), np.uint8), [0])
    report = check("coco-stuff", tmp_path)
    assert [*map(str, report.problems)] == ["000000000077.png: a label map without an image."]


def test_a_split_that_is_not_there_is_told_from_a_broken_one(tmp_path, rng):
    make_ade20k(tmp_path, rng)
    top = tmp_path / "ADEChallengeData2016"
    (top / "images/training").rename(top / "elsewhere")
    with pytest.raises(NotThere, match="expected the folder images/training"):
        check("ade20k", tmp_path)
    assert check("ade20k", tmp_path, "val").problems == []


def test_shapes_can_be_checked():
    split = load_dataset("shapes").split("dev")
    split.__class__ = type("Short", (type(split),), {"ids": split.ids[:5]})
    report = check_split(split)
    assert (report.images, report.problems) == (5, [])


def test_results_come_in_order_and_an_error_ends_them():
    assert list(in_threads(lambda i: i * i, range(100), 3)) == [i * i for i in range(100)]
    called, later = [], threading.Event()
    threading.Timer(0.5, later.set).start()

    def fail(i):
        called.append(i)
        if i == 0:
            raise ValueError("zero")
        later.wait()

    with pytest.raises(ValueError, match="zero"):
        list(in_threads(fail, range(1000), 1))
    assert called in ([0], [0, 1])


def test_a_split_without_an_image_is_a_problem(tmp_path, rng):
    """A build refuses it."""
    make_voc(tmp_path, rng)
    lists = tmp_path / VOC / "ImageSets/Segmentation"
    (lists / "trainaug.txt").write_text("\n")
    report = check_split(load_dataset("voc", tmp_path).split("train"))
    assert [str(p) for p in report.problems] == ["it has no image: its list is empty."]
