"""What the labels stage stores of a label map, against the map itself."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_coco_tree
from small_builds import NOTHING, InMemory, made, no_teacher

from c2s.datasets import FolderSplit
from c2s.datasets.coco_stuff import DESCRIPTOR
from c2s_cache import Manifest, TeacherInfo
from c2s_pipeline.build.block import BlockComputer
from c2s_pipeline.build.request import make_manifest
from c2s_pipeline.build.rows import part_of

TEACHER = TeacherInfo(
    name="none",
    pretrained=None,
    digest="0" * 64,
    tower_digest="2" * 64,
    activation="gelu",
    dim=8,
    image_size=32,
    dense_size=32,
    dense_dim=8,
    grid=(4, 4),
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)
MISSING = ("images", "labels")


@pytest.fixture
def split(tmp_path) -> FolderSplit:
    return FolderSplit(DESCRIPTOR, make_coco_tree(tmp_path / "coco", 5), "train")


def manifest(split) -> Manifest:
    request = made(masks={"windows": (2, 3)})
    return make_manifest(split, request, [part_of(split, split.ids)], TEACHER)


def test_label_maps_are_stored_without_unseen_classes_and_say_what_the_data_set_ignores(split):
    computer = BlockComputer(manifest(split), split, no_teacher)
    stored = computer.compute(split.ids, 0, MISSING, NOTHING).stages["labels"]
    start = 0
    for name, end in zip(split.ids, stored["labels/end"], strict=True):
        full = split.labels(name)
        here = slice(start, end)
        labels = stored["labels/data"][here].reshape(full.shape)
        ignored = stored["labels/ignored"][here].reshape(full.shape)
        hidden = np.isin(full, DESCRIPTOR.unseen)
        np.testing.assert_array_equal(ignored, full == 255)
        np.testing.assert_array_equal((labels == 255) & ~ignored, hidden)
        np.testing.assert_array_equal(labels[~hidden], full[~hidden])
        assert hidden.any()
        assert ignored.any()
        start = end


def test_labels_alone_and_labels_of_a_lost_image(split):
    computer = BlockComputer(manifest(split), split, no_teacher)
    whole = computer.compute(split.ids, 0, MISSING, NOTHING).stages
    there = InMemory(computer.manifest, whole["images"])
    anew = computer.compute(split.ids, 0, ("labels",), there).stages["labels"]
    for path, values in whole["labels"].items():
        np.testing.assert_array_equal(anew[path], values)
    split.image_file(split.ids[1]).write_bytes(b"cut")
    labels = computer.compute(split.ids, 0, MISSING, NOTHING).stages["labels"]
    assert labels["labels/end"][0] == labels["labels/end"][1]
    assert len(labels["labels/ignored"]) == len(labels["labels/data"]) == labels["labels/end"][-1]
