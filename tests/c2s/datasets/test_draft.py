"""`c2s data init`: a classes.yaml that fits what the label maps show, of folders as they come."""

from __future__ import annotations

import numpy as np
import pytest
from pictures import photo
from PIL import Image

from c2s.datasets import load_dataset
from c2s.datasets.check import check_split
from c2s.datasets.draft import draft_classes
from c2s_cache import ConfigError, DataError

VALUES = np.array([[0, 0, 3, 3], [0, 7, 7, 3]], np.uint8).repeat(8, 0).repeat(8, 1)
COLOURS = {0: (0, 0, 0), 3: (64, 128, 64), 7: (192, 0, 128)}
NAMES = {0: "Void", 3: "Animal", 7: "Archway"}


def drawn(values):
    return Image.fromarray(
        np.array([COLOURS.get(i, (0, 0, 0)) for i in range(256)], np.uint8)[values]
    )


def indexed(values, order):
    """The colours of the values as a palette in that order."""
    image = Image.fromarray(np.searchsorted(sorted(order), values).astype(np.uint8), "P")
    ranks = {v: i for i, v in enumerate(order)}
    data = np.vectorize(ranks.__getitem__)(values).astype(np.uint8)
    image = Image.fromarray(data, "P")
    image.putpalette([c for v in order for c in COLOURS[v]])
    return image


def fill(root, images, masks, pictures, between="", ending=".png", photo_ending=".jpg"):
    for i, picture in enumerate(pictures):
        for folder in (images, masks):
            (root / folder).mkdir(parents=True, exist_ok=True)
        size = picture.size[::-1]
        photo(np.random.default_rng(i), *size).save(root / images / f"p{i}{photo_ending}")
        picture.save(root / masks / f"p{i}{between}{ending}")


def described(root):
    """The data set that the draft describes; it must have no problem."""
    draft = draft_classes(root)
    (root / "classes.yaml").write_text(draft.text, encoding="utf-8")
    dataset = load_dataset(str(root))
    report = check_split(dataset.split("train"))
    assert report.problems == []
    assert report.absent == []
    return draft, dataset


@pytest.mark.parametrize(
    ("images", "masks", "between", "ending"),
    [
        ("images", "masks", "", ".png"),
        ("JPEGImages", "SegmentationClass", "", ".png"),
        ("img", "ann", "_mask", ".png"),
        ("photos", "labels", "", ".tif"),
        ("a", "b", "_gtFine_labelIds", ".bmp"),
        (".", ".", "_mask", ".png"),
    ],
)
@pytest.mark.parametrize("photo_ending", [".jpg", ".png"])
def test_folders_and_endings_are_found(tmp_path, images, masks, between, ending, photo_ending):
    fill(tmp_path, images, masks, [Image.fromarray(VALUES)] * 3, between, ending, photo_ending)
    draft, dataset = described(tmp_path)
    assert (draft.images, draft.masks, draft.pairs, draft.looked) == (images, masks, 3, 3)
    assert dataset.classes == ("class 0", "class 3", "class 7")
    np.testing.assert_array_equal(
        dataset.split("train").labels("p0"), np.searchsorted([0, 3, 7], VALUES)
    )


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        ([0, 255], (0, 255)),
        ([0, 1, 255], (0, 1)),
        ([0, 1, 2, 5, 255], (0, 1, 2, 5)),
        ([0, 128, 255], (0, 128, 255)),
        ([255], (255,)),
        ([1, 2, 3], (1, 2, 3)),
    ],
)
def test_255_is_a_class_unless_others_count_up_to_it_from_afar(tmp_path, values, classes):
    picture = Image.fromarray(np.array(values, np.uint8).repeat(8).repeat(8).reshape(8, -1))
    fill(tmp_path, "images", "masks", [picture])
    _, dataset = described(tmp_path)
    assert dataset.classes == tuple(f"class {v}" for v in classes)


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "palettes that differ"])
def test_colours_are_found_whatever_holds_them(tmp_path, kind):
    if kind == "palettes that differ":
        pictures = [indexed(VALUES, order) for order in ((0, 3, 7), (7, 0, 3), (3, 7, 0))]
    else:
        pictures = [drawn(VALUES).convert(kind)] * 3
    fill(tmp_path, "images", "masks", pictures)
    _, dataset = described(tmp_path)
    assert len(dataset.classes) == 3
    split = dataset.split("train")
    for name in ("p1", "p2"):
        np.testing.assert_array_equal(split.labels(name), split.labels("p0"))
    assert len(np.unique(split.labels("p0"))) == 3


def test_one_palette_for_all_means_that_indices_are_classes(tmp_path):
    fill(tmp_path, "images", "masks", [indexed(VALUES, (0, 3, 7))] * 2)
    assert described(tmp_path)[1].classes == ("class 0", "class 1", "class 2")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (
            "class_dict.csv",
            "name,r,g,b\nAnimal,64,128,64\nArchway,192,0,128\nVoid,0,0,0\nBus,1,2,3\n",
        ),
        ("label_colors.txt", "64 128 64\tAnimal\n192 0 128\tArchway\n0 0 0\tVoid\n"),
        (
            "labelmap.txt",
            "# label:color_rgb:parts:actions\nVoid:0,0,0::\nAnimal:64,128,64::\nArchway:192,0,128::\n",
        ),
    ],
)
def test_names_of_colours_come_from_the_list_beside_them(tmp_path, file, text):
    fill(tmp_path, "images", "masks", [drawn(VALUES)] * 2)
    (tmp_path / file).write_text(text)
    draft, dataset = described(tmp_path)
    assert draft.named
    split = dataset.split("train")
    np.testing.assert_array_equal(
        np.array(dataset.classes)[split.labels("p0")], np.vectorize(NAMES.get)(VALUES)
    )


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("classes.txt", "Void\na\nb\nAnimal\nc\nd\ne\nArchway\n"),
        ("id2label.json", '{"0": "Void", "3": "Animal", "7": "Archway"}'),
    ],
)
def test_names_of_values_come_from_the_list_beside_them(tmp_path, file, text):
    fill(tmp_path, "images", "masks", [Image.fromarray(VALUES)] * 2)
    (tmp_path / file).write_text(text)
    draft, dataset = described(tmp_path)
    assert (draft.named, dataset.classes) == (True, ("Void", "Animal", "Archway"))


def test_folders_of_further_splits_are_said_to_be_left_out(tmp_path):
    for split, count in (("train", 3), ("val", 1)):
        fill(tmp_path, split, f"{split}_labels", [Image.fromarray(VALUES)] * count, between="_L")
    draft, _ = described(tmp_path)
    assert (draft.images, draft.masks) == ("train", "train_labels")
    assert draft.unused == ["val", "val_labels"]


def test_a_list_that_does_not_name_all_is_not_taken(tmp_path):
    fill(tmp_path, "images", "masks", [Image.fromarray(VALUES)])
    (tmp_path / "classes.txt").write_text("a\nb\n")
    assert not draft_classes(tmp_path).named


def test_names_that_yaml_would_read_otherwise_are_kept(tmp_path):
    fill(tmp_path, "images", "masks", [Image.fromarray(np.eye(16, dtype=np.uint8))])
    (tmp_path / "classes.txt").write_text("no: thing\n'quoted' # café\n", encoding="utf-8")
    assert described(tmp_path)[1].classes == ("no: thing", "'quoted' # café")


def test_what_cannot_be_described_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        draft_classes(tmp_path / "nowhere")
    with pytest.raises(
        DataError, match=r"no two folders .* it has no pictures\. .* c2s data convert"
    ):
        draft_classes(tmp_path)
    fill(tmp_path, "images", "masks", [drawn(VALUES)], ending=".jpg")
    with pytest.raises(DataError, match="is a JPEG, which changes the values"):
        draft_classes(tmp_path)
    (tmp_path / "masks/p0.jpg").unlink()
    big = photo(np.random.default_rng(3), 200, 200)
    fill(tmp_path, "images", "masks", [big.resize((400, 400))])
    big.resize((40, 40)).save(tmp_path / "masks/p0.png")
    with pytest.raises(DataError, match=r"has [\d,]+ colours: its edges are blended"):
        draft_classes(tmp_path)
    (tmp_path / "classes.yaml").write_text("classes: [a]\n")
    with pytest.raises(ConfigError, match="is there already"):
        draft_classes(tmp_path)
