"""Every official layout, written by the test, reads back as the class ids it was written from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from official_trees import TREES, colour, make_cityscapes, make_context, make_voc, write_values
from PIL import Image

from c2s.datasets import NAMES, load_dataset
from c2s.datasets.cityscapes import LABEL_IDS
from c2s.datasets.context import CATEGORIES
from c2s_cache import DataError

LISTS = "VOCdevkit/VOC2012/ImageSets/Segmentation"


@pytest.mark.parametrize("name", TREES)
def test_label_maps_read_back(name, tmp_path, rng):
    truth = TREES[name](tmp_path, rng)
    dataset = load_dataset(name, tmp_path)
    assert dataset.splits == ("train", "val")
    for split, maps in truth.items():
        read = dataset.split(split)
        assert read.ids == tuple(sorted(maps))
        for item in read:
            image, labels = item.read()
            np.testing.assert_array_equal(labels, maps[item.id])
            assert image.shape[:2] == labels.shape


def test_background_of_context_is_ignored_or_a_class(tmp_path, rng):
    truth = make_context(tmp_path, rng)["val"]["2008_000002"]
    (with_background,) = load_dataset("context-bg", tmp_path).split("val")
    labels = with_background.read()[1]
    np.testing.assert_array_equal(labels, np.where(truth == 255, 0, truth.astype(int) + 1))
    assert load_dataset("context-bg").protocol.background == 0
    assert load_dataset("context").protocol.background is None


def test_vocs_own_masks_come_before_augmented_ones(tmp_path, rng):
    truth = make_voc(tmp_path, rng)["train"]["2007_000001"]
    other = tmp_path / "VOCdevkit/VOC2012/SegmentationClassAug/2007_000001.png"
    write_values(other, 0 * truth, range(1, 21))
    np.testing.assert_array_equal(
        load_dataset("voc", tmp_path).split("train").labels("2007_000001"), truth
    )


def test_voc_masks_drawn_in_colour(tmp_path, rng):
    truth = make_voc(tmp_path, rng)["val"]["2007_000003"]
    file = tmp_path / "VOCdevkit/VOC2012/SegmentationClass/2007_000003.png"
    with Image.open(file) as image:
        drawn = image.convert("RGB")
    drawn.save(file)
    split = load_dataset("voc", tmp_path).split("val")
    np.testing.assert_array_equal(split.labels("2007_000003"), truth)
    drawn.putpixel((0, 0), (1, 2, 3))
    drawn.save(file)
    with pytest.raises(DataError, match=r"holds the colour \(1, 2, 3\), which is no class's"):
        split.labels("2007_000003")


def test_vocs_colour_map():
    assert [colour(v) for v in (0, 1, 15, 20, 255)] == [
        (0, 0, 0),
        (128, 0, 0),
        (192, 128, 128),
        (0, 64, 128),
        (224, 224, 192),
    ]


def test_train_and_aug_lists_make_trainaug(tmp_path, rng):
    make_voc(tmp_path, rng)
    (tmp_path / LISTS / "trainaug.txt").unlink()
    (tmp_path / LISTS / "train.txt").write_text("2007_000001\n")
    with pytest.raises(DataError, match="no list of the images of voc/train"):
        _ = load_dataset("voc", tmp_path).split("train").ids
    (tmp_path / LISTS / "aug.txt").write_text("2008_000002\n\n")
    assert load_dataset("voc", tmp_path).split("train").ids == ("2007_000001", "2008_000002")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("JPEGImages/2008_000002.jpg", "1 of 2 images of voc/train have no file"),
        ("SegmentationClassAug/2008_000002.png", "1 of 2 images of voc/train have no label map"),
    ],
)
def test_listed_files_must_be_there(file, message, tmp_path, rng):
    make_voc(tmp_path, rng)
    (tmp_path / "VOCdevkit/VOC2012" / file).unlink()
    with pytest.raises(DataError, match=message) as caught:
        _ = load_dataset("voc", tmp_path).split("train").ids
    assert "2008_000002" in str(caught.value)


def test_an_image_listed_twice_is_refused(tmp_path, rng):
    make_voc(tmp_path, rng)
    (tmp_path / LISTS / "val.txt").write_text("2007_000003\n2007_000003\n")
    with pytest.raises(DataError, match="lists an image twice"):
        _ = load_dataset("voc", tmp_path).split("val").ids


def test_unknown_label_values_are_named(tmp_path, rng):
    truth = TREES["cityscapes"](tmp_path, rng)["val"]
    (image_id,) = truth
    file = tmp_path / f"cityscapes/gtFine/val/{image_id}_gtFine_labelIds.png"
    write_values(file, truth[image_id], [77] * 19)
    with pytest.raises(DataError, match="label value 77, which is outside the 19 classes"):
        load_dataset("cityscapes", tmp_path).split("val").labels(image_id)


@pytest.mark.parametrize("root", [".", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_the_root_may_be_named_at_any_level(root, tmp_path, rng):
    make_voc(tmp_path, rng)
    assert len(load_dataset("voc", tmp_path / root).split("val")) == 1


@pytest.mark.parametrize(
    ("name", "classes", "unseen"),
    [
        ("voc", 20, (15, 16, 17, 18, 19)),
        ("context", 59, (0, 6, 7, 14, 19, 24, 31, 33, 48, 54)),
        ("context-bg", 60, (1, 7, 8, 15, 20, 25, 32, 34, 49, 55)),
        ("ade20k", 150, ()),
        ("cityscapes", 19, ()),
    ],
)
def test_the_fields_classes_and_splits(name, classes, unseen):
    dataset = load_dataset(name)
    assert len(dataset.classes) == len(set(dataset.classes)) == classes
    assert len(dataset.prompts) == len(set(dataset.prompts)) == classes
    assert dataset.unseen == unseen


def test_names_are_fixed():
    assert (
        *("shapes", "voc", "voc-bg", "coco-stuff", "coco-object", "context", "context-bg"),
        *("ade20k", "cityscapes", "coco-panoptic", "ade20k-full", "context-459", "vipseg"),
        *("shapes-renamed", "shapes-things", "shapes-moving", "shapes-crowded"),
    ) == NAMES


def test_context_categories_are_those_of_the_public_converters():
    published = """2 259 260 415 324 9 258 144 18 19 22 23 397 25 284 158 159 416 33 162 420 454 295 296
    427 44 45 46 308 59 440 445 31 232 65 354 424 68 326 72 458 34 207 80 355 85 347 220 349 360 98 187
    104 105 366 189 368 113 115"""
    assert list(CATEGORIES) == sorted(map(int, published.split()))
    by_name = dict(zip(load_dataset("context").classes, CATEGORIES, strict=True))
    assert (by_name["person"], by_name["mountain"], by_name["wood"]) == (284, 259, 458)


def test_cityscapes_ids_are_the_official_ones():
    official = {
        "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17,
        "traffic light": 19, "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23,
        "person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31,
        "motorcycle": 32, "bicycle": 33,
    }  # fmt: skip
    assert dict(zip(load_dataset("cityscapes").classes, LABEL_IDS, strict=True)) == official


def test_linked_folders_are_followed(tmp_path, rng):
    make_cityscapes(tmp_path, rng)
    city = tmp_path / "cityscapes/leftImg8bit/train/aachen"
    city.rename(tmp_path / "elsewhere")
    city.symlink_to(tmp_path / "elsewhere")
    assert len(load_dataset("cityscapes", tmp_path).split("train")) == 2


def test_cleaned_names():
    spoken = dict(
        zip(load_dataset("coco-stuff").classes, load_dataset("coco-stuff").prompts, strict=True)
    )
    assert [
        spoken[n] for n in ("sky-other", "door-stuff", "wall-brick", "window-blind", "hot dog")
    ] == [
        "sky",
        "door",
        "brick wall",
        "blind window",
        "hot dog",
    ]
    assert len(set(spoken.values())) == 171
    assert load_dataset("voc").prompts[15] == "potted plant"
    assert load_dataset("context").prompts[54] == "tv monitor"


def test_real_voc(shared_data):
    dataset = load_dataset("voc", shared_data)
    for name, count in (("train", 14), ("val", 7)):
        split = dataset.split(name)
        assert len(split) == count
        for item in split:
            labels = item.read()[1]
            assert set(np.unique(labels)) <= {*range(20), 255}
    # 2007_000063 shows a dog on a chair: raw values 12 and 9
    assert set(np.unique(dataset.split("train").labels("2007_000063"))) == {8, 11, 255}


def test_real_ade20k(shared_data):
    dataset = load_dataset("ade20k", shared_data)
    split = dataset.split("val")
    assert len(split) == 3
    found = {dataset.classes[i] for item in split for i in np.unique(item.read()[1]) if i != 255}
    assert {"wall", "building", "sky", "tree", "road"} <= found
    lines = (shared_data / "ADEChallengeData2016/objectInfo150.txt").read_text().splitlines()
    synonyms = [[n.strip() for n in line.split("\t")[4].split(",")] for line in lines[1:]]
    assert len(synonyms) == len(dataset.classes)
    others = [n for n, known in zip(dataset.classes, synonyms, strict=True) if n != known[0]]
    assert others == ["television receiver"]
    assert others[0] in synonyms[89]


def test_clips_of_shapes_begin_with_its_scenes_and_move():
    still, moving = (load_dataset(name).split("dev") for name in ("shapes", "shapes-moving"))
    assert len(moving.ids) == len(still.ids) == 400
    assert list(moving.ids) == sorted(moving.ids)
    for clip in range(3):
        frames = moving.ids[8 * clip : 8 * clip + 8]
        assert {image_id.rpartition("-")[0] for image_id in frames} == {still.ids[clip]}
        np.testing.assert_array_equal(moving.labels(frames[0]), still.labels(still.ids[clip]))
        assert moving.encoded(frames[0]) == still.encoded(still.ids[clip])
        changed = [(moving.labels(f) != moving.labels(frames[0])).mean() for f in frames]
        assert changed[0] == 0
        assert 0 < changed[1] < changed[7] < 0.7


def test_crowded_scenes_have_six_to_eight_things():
    dataset = load_dataset("shapes-crowded")
    assert (dataset.protocol.view_size, dataset.protocol.short_side) == (96, 96)
    split = dataset.split("dev")
    for image_id in split.ids[:6]:
        labels, instances = split.labels(image_id), split.instances(image_id)
        assert labels.shape == instances.shape == (96, 96)
        assert 5 <= len(np.unique(instances)) <= 9  # with the background; one may hide another
        assert ((instances > 1) == (labels < 10)).all()


def test_things_of_coco_and_shapes_lie_on_background(tmp_path, rng):
    shapes, things = (load_dataset(name).split("dev") for name in ("shapes", "shapes-things"))
    assert (things.name, things.classes[0], len(things.classes)) == (
        "shapes-things",
        "background",
        11,
    )
    assert [things.classes[i] for i in things.unseen] == ["star", "ring"]
    for image_id in things.ids[:4]:
        for every, few in zip(
            shapes.labels(image_id).ravel(), things.labels(image_id).ravel(), strict=True
        ):
            name = shapes.classes[every]
            assert things.classes[few] == (name if every < 10 else "background")
    coco = load_dataset("coco-object").descriptor
    raw = next(e for e in coco.encodings if e.suffix == ".png").table(255)
    trained = next(e for e in coco.encodings if "TrainIds" in e.suffix).table(255)
    assert (coco.classes[raw[0]], coco.classes[raw[20]]) == ("person", "cow")
    assert (raw[89], raw[91], raw[181], raw[255], raw[11]) == (80, 0, 0, 0, -1)
    assert (trained[79], trained[80], trained[170], trained[255]) == (80, 0, 0, 0)
    assert [coco.classes[i] for i in coco.unseen] == [
        *("cow", "giraffe", "suitcase", "frisbee", "skateboard", "carrot", "scissors")
    ]
    voc = load_dataset("voc-bg")
    table = voc.descriptor.encodings[0].table(255)
    assert (voc.classes[table[0]], voc.classes[table[20]], table[255]) == (
        "background",
        "tvmonitor",
        255,
    )
    assert [load_dataset(n).protocol.background for n in ("voc-bg", "coco-object")] == [0, 0]


@pytest.mark.parametrize(("name", "whose"), [("voc-bg", "voc"), ("coco-object", "coco-stuff")])
def test_a_class_beside_background_has_the_names_it_has_without(name, whose):
    found, base = load_dataset(name).descriptor, load_dataset(whose).descriptor
    assert (found.names[0], found.prompts[0]) == (("background",), "background")
    for i, spelt in enumerate(found.classes[1:]):
        assert spelt == base.classes[i]
        assert found.names[i + 1] == base.names[i]
        assert found.prompts[i + 1] == base.prompts[i]


def test_every_class_has_names():
    voc = load_dataset("voc").descriptor
    with pytest.raises(DataError, match="voc has 20 names of 21 classes"):
        replace(voc, classes=("background", *voc.classes), prompts=())
    with pytest.raises(DataError, match="voc has 20 prompts of 21 classes"):
        replace(voc, classes=("background", *voc.classes), names=())
