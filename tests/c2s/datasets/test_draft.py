"""`c2s data init`: a classes.yaml that fits what the label maps show, of folders as they come."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from pictures import photo
from PIL import Image

from c2s.datasets import load_dataset
from c2s.datasets.check import check_split
from c2s.datasets.draft import draft_classes
from c2s.datasets.export import find_export
from c2s.datasets.mask_folder import read_mask_folder
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
        ("classes.txt", "0 Void\n3: Animal\n7\tArchway\n"),
        ("Classes.TXT", "Void: 0\nAnimal: 3\nArchway: 7\n"),
        ("masks/_classes.csv", "Pixel Value, Class\n0, Void\n3, Animal\n7, Archway\n"),
        ("images/id2label.json", '{"Void": 0, "Animal": 3, "Archway": 7}'),
        ("id2label.json", '["Void", "a", "b", "Animal", "c", "d", "e", "Archway"]'),
    ],
)
def test_names_of_values_come_from_the_list_beside_them(tmp_path, file, text):
    fill(tmp_path, "images", "masks", [Image.fromarray(VALUES)] * 2)
    (tmp_path / file).write_text(text)
    draft, dataset = described(tmp_path)
    assert (draft.named, dataset.classes) == (True, ("Void", "Animal", "Archway"))


def test_names_may_begin_or_end_with_a_number(tmp_path):
    fill(tmp_path, "images", "masks", [Image.fromarray(VALUES // 3)] * 2)
    (tmp_path / "classes.txt").write_text("2 wheels\n4 wheels\nclass 7\n")
    assert described(tmp_path)[1].classes == ("2 wheels", "4 wheels", "class 7")
    shutil.rmtree(tmp_path)
    fill(tmp_path, "images", "masks", [drawn(VALUES)])
    (tmp_path / "class_dict.csv").write_text(
        "name,r,g,b\nlane 2,0,0,0\n3rd row,64,128,64\nArchway,192,0,128\n"
    )
    assert {*described(tmp_path)[1].classes} == {"lane 2", "3rd row", "Archway"}


def test_named_classes_that_no_label_map_shows(tmp_path, monkeypatch):
    """Words, where all were looked at; classes, where those that were not may show them."""
    fill(tmp_path, "images", "masks", [Image.fromarray(VALUES // 3)] * 3)
    (tmp_path / "classes.txt").write_text("road\ngrass\ntree\nsign, red\nbicycle\n")
    assert '# words: ["sign, red", bicycle]  # named in classes.txt, and in no label map\n' in (
        draft_classes(tmp_path).text
    )
    monkeypatch.setattr("c2s.datasets.draft.LOOKED", 2)
    text = draft_classes(tmp_path).text
    assert "# words" not in text
    assert "  4: bicycle  # in none of the 2 label maps that were looked at\n" in text
    (tmp_path / "classes.yaml").write_text(text)
    assert load_dataset(str(tmp_path)).classes == ("road", "grass", "tree", "sign, red", "bicycle")


@pytest.mark.parametrize(
    ("images", "masks", "between", "splits"),
    [
        ("{}", "{}annot", "", ("train", "val", "test")),
        ("{}", "{}_labels", "_L", ("train", "val")),
        ("{}/images", "{}/masks", "", ("train", "valid", "test")),
        ("{}", "{}", "_mask", ("train", "valid")),
        ("images/{}", "annotations/{}", "", ("training", "validation")),
        ("{}_images", "{}_masks", "", ("Train", "Val")),
        ("{}2017", "maps/{}2017", "", ("train", "val")),
    ],
)
def test_folders_of_each_split_are_found(tmp_path, images, masks, between, splits):
    for i, split in enumerate(splits):
        pictures = [Image.fromarray(VALUES)] * (3 - i)
        fill(tmp_path, images.format(split), masks.format(split), pictures, between)
    draft, dataset = described(tmp_path)
    assert dataset.splits == tuple(draft.splits) == ("train", "val", "test")[: len(splits)]
    assert (draft.pairs, draft.unused) == (sum(range(4 - len(splits), 4)), [])
    for i, split in enumerate(dataset.splits):
        assert len(dataset.split(split).ids) == 3 - i
        np.testing.assert_array_equal(
            dataset.split(split).labels("p0"), np.searchsorted([0, 3, 7], VALUES)
        )


def test_the_usual_folders_of_splits_need_no_saying(tmp_path):
    for split in ("train", "val"):
        fill(tmp_path, f"images/{split}", f"masks/{split}", [Image.fromarray(VALUES)] * 2)
    draft, dataset = described(tmp_path)
    assert dataset.splits == ("train", "val")
    assert not {"train:", "images:"} & {*draft.text.split()}


def test_lists_of_splits_are_found_where_voc_has_them(tmp_path):
    fill(tmp_path, "JPEGImages", "SegmentationClass", [Image.fromarray(VALUES)] * 3)
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("p0\np2\n")
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("p1\n")
    draft, dataset = described(tmp_path)
    assert tuple(draft.splits) == dataset.splits == ("train", "val")
    assert dataset.split("train").ids == ("p0", "p2")


def test_lists_called_a_little_otherwise_are_never_passed_over(tmp_path):
    """VOC's trainaug.txt is the list of train; where several could be, one sentence says so."""
    fill(tmp_path, "JPEGImages", "SegmentationClass", [Image.fromarray(VALUES)] * 3)
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "trainaug.txt").write_text("p0\np2\n")
    (lists / "trainval.txt").write_text("p0\np1\np2\n")
    (lists / "val.txt").write_text("p1\n")
    (lists / "train_small.txt").write_text("p0\n")
    with pytest.raises(DataError, match=r"Segmentation holds val.txt, and no list .* of the split"):
        draft_classes(tmp_path)
    (lists / "train_small.txt").unlink()
    _, dataset = described(tmp_path)
    assert dataset.splits == ("train", "val")
    assert [dataset.split(s).ids for s in dataset.splits] == [("p0", "p2"), ("p1",)]


def test_drawings_of_few_colours_are_told_from_label_maps_by_the_folders_names(tmp_path):
    for split in ("train", "val"):
        fill(tmp_path, split, f"{split}annot", [Image.fromarray(VALUES)] * 2, photo_ending=".png")
        for i in range(2):
            Image.new("RGB", VALUES.shape[::-1], (200, 30, 30)).save(tmp_path / split / f"p{i}.png")
    _, dataset = described(tmp_path)
    assert dataset.splits == ("train", "val")
    assert set(np.unique(dataset.split("val").labels("p1"))) == {0, 1, 2}


def test_a_split_without_label_maps_is_said_to_be_left_out(tmp_path):
    for split in ("train", "val", "test"):
        fill(tmp_path, split, f"{split}annot", [Image.fromarray(VALUES)] * 2)
    shutil.rmtree(tmp_path / "testannot")
    draft, dataset = described(tmp_path)
    assert dataset.splits == ("train", "val")
    assert draft.unused == ["test"]


def test_annotations_of_another_tool_are_pointed_to(tmp_path):
    """Instead of taking their photos for photos alone."""
    photo(np.random.default_rng(0), 8, 8).save(tmp_path / "a.jpg")
    (tmp_path / "config").mkdir()
    (tmp_path / "config/data.yaml").write_text("path: ..\ntrain: images\nnames: [cat]\n")
    asked = r"c2s data convert .*config/data\.yaml --out"
    with pytest.raises(DataError, match=asked):
        draft_classes(tmp_path)
    with pytest.raises(ConfigError, match=asked):
        load_dataset(str(tmp_path))
    with pytest.raises(DataError, match=asked):
        load_dataset(str(tmp_path / "config/data.yaml"))
    (tmp_path / "config/data.yaml").unlink()
    assert load_dataset(str(tmp_path)).split("train").ids == ("a",)


@pytest.mark.parametrize(
    ("name", "text", "known"),
    [
        ("a.json", '{"info": {}, "images": [{"file_name": "a.jpg"}], "annotations": []}', True),
        ("a.json", '[{"id": 1, "annotations": [{"result": [{"original_width": 3', True),
        ("a.json", '[{"image": "a.jpg", "tag": [{"rle": [], "brushlabels": ["x"]}]}]', True),
        ("a.json", '{"version": "5.2.1", "flags": {}, "shapes": [{"label": "x"', True),  # LabelMe
        ("a.xml", "<?xml?>\n<annotations><version>1.1</version><meta>", True),
        ("a.yml", "train: {images: a, masks: b}\nval: {}\nclasses: [a]\n", True),
        ("metadata.json", '{"images": 3, "title": "Holiday"}', False),
        ("notes.xml", "<notes/>", False),
        ("classes.yaml", "names: train: masks: classes:", False),
    ],
)
def test_exports_are_known_by_what_they_say(tmp_path, name, text, known):
    (tmp_path / name).write_text(text)
    assert find_export(tmp_path) == (tmp_path / name if known else None)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/a.mat").write_text("MATLAB 5.0 MAT-file")
    assert find_export(tmp_path) == (tmp_path / name if known else tmp_path / "sub")


def test_outlines_beside_photos_are_another_tools(tmp_path):
    """As coco128 has them; their classes are in a YAML that lies elsewhere."""
    fill(tmp_path, "images/train", "labels", [])
    photo(np.random.default_rng(0), 8, 8).save(tmp_path / "a.jpg")
    (tmp_path / "labels/train").mkdir(parents=True)
    (tmp_path / "labels/train/a.txt").write_text("a line about the photo\n")
    assert load_dataset(str(tmp_path)).split("train").ids == ("a",)
    (tmp_path / "labels/train/a.txt").write_text("4 0.5 0.25 1 .5 0.1 0.9\n")
    with pytest.raises(ConfigError, match=r"another tool's annotations: \S*labels\."):
        load_dataset(str(tmp_path))
    with pytest.raises(
        DataError, match=r"annotations, \S*labels: c2s data convert FILE\.yaml --out"
    ):
        draft_classes(tmp_path)
    for folder in (tmp_path, tmp_path / "labels"):
        with pytest.raises(ConfigError, match=r"outlines or boxes .* c2s data convert FILE\.yaml"):
            read_mask_folder(folder, None, (), None)


def test_ids_drawn_as_colours_are_not_described_as_classes(tmp_path):
    """Panoptic label maps, whose classes are in the JSON beside them."""
    for split in ("train2017", "val2017"):
        fill(tmp_path, split, f"annotations/panoptic_{split}", [drawn(VALUES)])
    described(tmp_path)
    (tmp_path / "classes.yaml").unlink()
    text = '{"images": [{"file_name": "p0.jpg"}], "annotations": [{"segments_info": []}]}'
    (tmp_path / "annotations/panoptic_val2017.json").write_text(text)
    with pytest.raises(DataError, match=r"c2s data convert \S*panoptic_val2017\.json --out"):
        draft_classes(tmp_path)
    (tmp_path / "labelmap.txt").write_text("Void:0,0,0\nAnimal:64,128,64\nArchway:192,0,128\n")
    described(tmp_path)


@pytest.mark.parametrize(
    ("images", "masks", "between"),
    [("train", "trainannot", ""), ("JPEGImages", "SegmentationClass", ""), (".", ".", "_mask")],
)
def test_label_maps_are_never_taken_for_photos_alone(tmp_path, images, masks, between):
    fill(tmp_path, images, masks, [indexed(VALUES, [0, 3, 7])], between)
    with pytest.raises(ConfigError, match=r"label maps .* such as \S*p0\S*png.* c2s data init"):
        load_dataset(str(tmp_path))
    described(tmp_path)


def test_photos_of_one_name_and_drawings_are_photos_alone(tmp_path):
    fill(tmp_path, "rome", "oslo", [photo(np.random.default_rng(9), 32, 32)])
    drawn(VALUES).save(tmp_path / "oslo/plan_p0.png")
    drawn(VALUES).save(tmp_path / "rome/p1.png")
    assert len(load_dataset(str(tmp_path)).split("train").ids) == 4


def test_a_list_that_does_not_name_all_is_not_taken(tmp_path):
    fill(tmp_path, "images", "masks", [Image.fromarray(VALUES)])
    (tmp_path / "classes.txt").write_text("a\nb\n")
    assert not draft_classes(tmp_path).named


def test_a_class_that_may_be_no_label_is_pointed_out(tmp_path):
    fill(tmp_path, "images", "masks", [drawn(VALUES)])
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nA,64,128,64\nB,192,0,128\nVoid,0,0,0\n")
    hints = [line for line in described(tmp_path)[0].text.splitlines() if "no label" in line]
    assert len(hints) == 1
    assert hints[0].startswith("  - Void")
    assert hints[0].endswith('"no label", delete it (and its colour) and write ignore: others')


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
