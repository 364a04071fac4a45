"""Photos in no split, or in two, are said; lists of other kinds too."""

from __future__ import annotations

import shutil

import pytest
from official_trees import make_voc, write_classes

from c2s.cli.data_check import check_data_sets
from c2s.datasets import load_dataset
from c2s.datasets.check import check_split
from c2s.datasets.outside import outside_splits
from c2s_cache import ConfigError, DataError


def said(folder):
    (report, *_), _ = check_data_sets([str(folder)], None, None, False, 1, quick=True)
    return report.notes


def test_photos_that_no_list_names(folder):
    assert said(folder) == []
    (folder / "val.txt").write_text("b\n")
    assert said(folder) == [f"2 photos of {folder / 'images'} are in no split, such as a.JPG."]
    (folder / "train.txt").write_text("a\n")
    assert said(folder) == [f"1 photo of {folder / 'images'} is in no split, such as c.JPG."]
    (folder / "train.txt").write_text("a\nc\nb\n")
    assert said(folder) == ["1 photo is in train and val, such as b.JPG."]
    (folder / "train.txt").write_text("a\nc\n")
    assert said(folder) == []
    (folder / "train.txt").write_text("a\nd\n")  # a problem is told, not what follows from it
    assert said(folder) == []


def test_photos_beside_the_folders_of_splits(folder):
    for place, ending in (("images", ".JPG"), ("masks", ".png")):
        for name, word in (("a", "train"), ("b", "extra")):
            (folder / place / word).mkdir()
            (folder / place / f"{name}{ending}").rename(folder / place / word / f"{name}{ending}")
    assert said(folder) == [f"2 photos of {folder / 'images'} are in no split, such as c.JPG."]
    write_classes(
        folder, classes=["a", "b", "c"], train={"images": "images/train", "masks": "masks/train"}
    )
    assert said(folder) == [f"2 photos of {folder / 'images'} are in no split, such as c.JPG."]
    shutil.move(folder / "images/train", folder / "photos")
    write_classes(folder, classes=["a", "b", "c"], train={"images": "photos", "masks": "masks"})
    assert said(folder) == []  # nothing says that other folders would belong to it


def test_lists_of_other_kinds_are_not_read_and_said(folder):
    (folder / "Train.csv").write_text("image,mask\na.JPG,a.png\n")
    (folder / "notes.csv").write_text("x\n")
    (note,) = said(folder)
    assert note.startswith(f"{folder / 'Train.csv'} is not read: the list of a split is a text")
    (folder / "train.txt").write_text("a\nb\nc\n")
    assert said(folder) == []


def test_of_an_official_data_set_nothing_is_said(tmp_path, rng):
    make_voc(tmp_path, rng)
    lists = tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation"
    (lists / "trainaug.txt").write_text((lists / "trainaug.txt").read_text().split()[0])
    assert outside_splits(load_dataset("voc", tmp_path).split("train")) == []


@pytest.mark.parametrize(
    "line", ["images/a.JPG,masks/b.png", "a.JPG; b.png", "a.JPG , masks/b.png"]
)
def test_a_line_with_commas_names_its_first_photo(folder, line):
    want = load_dataset(str(folder)).split("train").labels("b")
    (folder / "train.txt").write_text(f"{line}\n")
    split = load_dataset(str(folder)).split("train")
    assert split.ids == ("a",)
    assert (split.labels("a") == want).all()


def test_a_photo_may_have_a_comma_in_its_name(folder):
    for place, ending in (("images", ".JPG"), ("masks", ".png")):
        (folder / place / f"a{ending}").rename(folder / place / f"b, c;d{ending}")
    (folder / "train.txt").write_text("images/b, c;d.JPG\n")
    assert load_dataset(str(folder)).split("train").ids == ("b, c;d",)


@pytest.mark.parametrize("name", ["classes.yml", "Classes.yaml"])
def test_a_classes_file_called_a_little_otherwise_is_named(folder, name):
    (folder / "classes.yaml").rename(folder / name)
    with pytest.raises(ConfigError, match=rf"{name} is not read\. Rename it to classes\.yaml"):
        load_dataset(str(folder))


def test_names_that_say_nothing_have_a_cure(folder):
    for name in "abc":
        (folder / f"masks/{name}.png").rename(folder / f"masks/gt_{name}.png")
    report = check_split(load_dataset(str(folder)).split("train"))
    assert "train.txt does: a photo and its label map a line" in report.kinds[0][0].cure
    for file in (folder / "masks").iterdir():
        file.rename(file.with_suffix(".npy"))
    with pytest.raises(DataError, match=r"masks holds 3 \.npy\. Save them as PNG"):
        _ = load_dataset(str(folder)).split("train").ids
