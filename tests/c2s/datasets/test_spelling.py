"""Folders, lists and endings are found as people write them, or named in one sentence."""

from __future__ import annotations

import unicodedata

import pytest
from official_trees import make_voc, write_classes

from c2s.datasets import load_dataset
from c2s.datasets.check import check_split
from c2s.datasets.draft import draft_classes
from c2s.datasets.folder import NotThere
from c2s.datasets.spelling import spelled, split_folders, split_lists, usual_split
from c2s_cache import DataError

WORDS = {
    "train": ("train", "Train", "TRAIN", "training"),
    "val": ("val", "Val", "valid", "Validation"),
    "test": ("test", "Testing"),
}


def test_the_words_for_a_split():
    for split, words in WORDS.items():
        assert {usual_split(word) for word in words} == {split}
    assert {usual_split(w) for w in ("trainval", "trainannot", "default", "values", "")} == {None}


@pytest.mark.parametrize(("images", "masks"), [("Images", "Masks"), ("IMAGES", "masks")])
@pytest.mark.parametrize(
    ("train", "val"), [("Train.txt", "VAL.TXT"), ("training.txt", "valid.txt")]
)
def test_folders_lists_and_endings_in_other_case(folder, images, masks, train, val):
    want = load_dataset(str(folder)).split("train").labels("b")
    (folder / "masks/b.png").rename(folder / "masks/b.PNG")
    for old, new in (("images", images), ("masks", masks)):
        (folder / old).rename(folder / new)
    (folder / train).write_text("a.jpg\nb\n")
    (folder / val).write_text("c.JPG\n")
    dataset = load_dataset(str(folder))
    assert dataset.splits == ("train", "val")
    assert [dataset.split(s).ids for s in dataset.splits] == [("a", "b"), ("c",)]
    assert check_split(dataset.split("train")).problems == []
    assert (dataset.split("train").labels("b") == want).all()


@pytest.mark.parametrize("word", ["Train", "training"])
def test_folders_of_splits_in_other_words_are_never_one_split(folder, word):
    for place, names in (("images", (word, "valid")), ("masks", ("train", "Val"))):
        ending = ".JPG" if place == "images" else ".png"
        for name, ids in zip(names, ("ab", "c"), strict=True):
            (folder / place / name).mkdir()
            for i in ids:
                (folder / place / f"{i}{ending}").rename(folder / place / name / f"{i}{ending}")
    dataset = load_dataset(str(folder))
    assert [dataset.split(s).ids for s in dataset.splits] == [("a", "b"), ("c",)]
    assert check_split(dataset.split("val")).problems == []


def test_folders_called_otherwise_are_named_with_what_to_write(folder):
    (folder / "images").rename(folder / "Photos")
    (folder / "masks").rename(folder / "Labels")
    with pytest.raises(NotThere, match='images: "Photos"; masks: "Labels"'):
        _ = load_dataset(str(folder)).split("train").ids
    write_classes(folder, classes=["cat", "dog", "grass"], images="photos", masks="labels")
    assert load_dataset(str(folder)).split("train").ids == ("a", "b", "c")
    (folder / "classes.yaml").unlink()
    lines = [line.partition("#")[0].strip() for line in draft_classes(folder).text.splitlines()]
    assert {'images: "Photos"', 'masks: "Labels"'} <= {*lines}


def test_of_several_that_differ_in_case_alone_none_is_guessed(folder):
    (folder / "masks").rename(folder / "Masks")
    (folder / "MASKS").mkdir()
    if len(list(folder.iterdir())) < 4:
        pytest.skip("this file system does not tell cases apart")
    with pytest.raises(DataError, match="holds MASKS and Masks; which is meant by masks"):
        _ = load_dataset(str(folder)).split("train").ids
    (folder / "MASKS").rename(folder / "masks")
    assert spelled(folder, "masks") == "masks"
    (folder / "train.txt").write_text("a\n")
    (folder / "Training.txt").write_text("b\n")
    with pytest.raises(DataError, match=r"Training\.txt and train\.txt: which is the split train"):
        split_lists(folder)
    assert split_folders(folder / "nowhere") == {}


def test_accents_written_apart_are_the_same_name(folder):
    (folder / "masks").rename(folder / unicodedata.normalize("NFD", "étiquettes"))
    write_classes(folder, classes=["cat", "dog", "grass"], masks="Étiquettes")
    assert check_split(load_dataset(str(folder)).split("train")).problems == []


def test_official_folders_in_other_case(tmp_path, rng):
    truth = make_voc(tmp_path, rng)["train"]
    voc = tmp_path / "VOCdevkit/VOC2012"
    for old, new in (("JPEGImages", "jpegimages"), ("ImageSets", "imagesets")):
        (voc / old).rename(voc / new)
    assert load_dataset("voc", tmp_path).split("train").ids == tuple(sorted(truth))
