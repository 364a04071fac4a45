"""Data sets with instances or long lists of classes: official files, what is prepared of them, and their words."""

from __future__ import annotations

import json

import numpy as np
import pytest
from official_trees import class_map, write_image, write_list
from PIL import Image
from scipy.io import savemat

from c2s.datasets import load_dataset
from c2s.datasets.coco_panoptic import CLASSES
from c2s.datasets.prepare import plan_preparation
from c2s.datasets.shapes import ShapesSplit
from c2s.datasets.word_lists import FOLDER, NOUNS, nouns_of, synonyms_of
from c2s.shapes import scenes
from c2s_cache import DataError
from c2s_pipeline.phrases import forms


def test_class_lists_have_the_fields_lengths():
    counts = {"coco-panoptic": 133, "ade20k-full": 847, "context-459": 459, "vipseg": 124}
    for name, count in counts.items():
        data = load_dataset(name)
        assert len(data.classes) == len(data.names) == count
        every = [word for names in data.names for word in names]
        assert len(set(every)) == len(every) or name == "coco-panoptic"
    assert load_dataset("ade20k-full").names[1] == ("building", "edifice")
    assert load_dataset("context-459").classes[22] == "bicycle"
    vipseg = load_dataset("vipseg")
    assert vipseg.unseen == (11, 32, 34, 57, 76, 78, 80, 94, 102, 112, 116, 122)
    assert vipseg.names[7] == ("handrail", "fence")
    panoptic = load_dataset("coco-panoptic")
    assert dict(zip(panoptic.classes, panoptic.prompts, strict=True))["wall-other-merged"] == "wall"


@pytest.mark.parametrize("name", sorted(file.stem for file in FOLDER.glob("*.yaml")))
def test_a_synonym_stands_for_one_class(name):
    """Whether that is seen or not: it is the name of no other, and in no other's list."""
    data, words = load_dataset(name), synonyms_of(name)
    assert set(words) == set(data.classes)
    names = [n.casefold() for n in {*data.classes, *data.prompts}]
    every = [w.casefold() for each in words.values() for w in each]
    assert len(set(every)) == len(every)
    assert not set(every) & set(names)
    assert 1 <= min(map(len, words.values())) <= max(map(len, words.values())) <= 2


@pytest.mark.parametrize("name", [file.stem for file in NOUNS.glob("*.yaml")])
def test_a_noun_is_listed_once(name):
    """In neither number, and no word of a class is."""
    data, synonyms = load_dataset(name), synonyms_of(name)
    words = [*data.classes, *data.prompts, *(w for each in synonyms.values() for w in each)]
    known = {form for word in words for form in forms(word)}
    for noun in nouns_of(name):
        assert forms(noun).isdisjoint(known), noun
        known |= forms(noun)
    assert len(nouns_of(name)) > 700


def test_the_same_scenes_have_classes_of_other_names():
    one, other = load_dataset("shapes").split("val"), load_dataset("shapes-renamed").split("val")
    assert (other.name, other.classes, other.unseen) == (
        "shapes-renamed",
        scenes.RENAMED,
        one.unseen,
    )
    known = {*scenes.CLASSES, *(w for words in synonyms_of("shapes").values() for w in words)}
    assert not known & set(scenes.RENAMED)
    for i in range(3):
        for ours, theirs in zip(one[i].read(), other[i].read(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_things_of_a_scene_are_numbered():
    split = ShapesSplit("train")
    for i in range(20):
        numbers, labels = split.instances(f"train-{i:06d}"), split.labels(f"train-{i:06d}")
        things = labels < len(scenes.THINGS)
        np.testing.assert_array_equal(numbers > 1, things)
        for k in range(2, numbers.max() + 1):
            assert len(np.unique(labels[numbers == k])) <= 1


@pytest.fixture
def panoptic(tmp_path, rng):
    """A photo with two persons, one wall and a crowd, in COCO's official form."""
    root = tmp_path / "coco"
    labels = np.full((20, 30), 255, np.uint8)
    number = np.zeros((20, 30), np.uint32)
    wall, person = CLASSES.index("wall-other-merged"), 0
    for key, class_id, place in (
        (7, wall, np.s_[:10]),
        (300, person, np.s_[10:, :8]),
        (70000, person, np.s_[10:, 8:16]),
        (5, person, np.s_[10:, 16:24]),
    ):
        labels[place], number[place] = class_id, key
    write_image(root / "val2017/000000000001.jpg", labels)
    png = root / "annotations/panoptic_val2017/000000000001.png"
    png.parent.mkdir(parents=True)
    channels = [(number >> shift & 255).astype(np.uint8) for shift in (0, 8, 16)]
    Image.fromarray(np.stack(channels, -1)).save(png)
    ids = {wall: 199, person: 1}
    segments = [
        {"id": k, "category_id": ids[c], "iscrowd": int(k == 5)}
        for k, c in ((7, wall), (300, person), (70000, person), (5, person))
    ]
    categories = [{"id": 1, "name": "person"}, {"id": 199, "name": "wall-other-merged"}]
    content = {
        "annotations": [{"file_name": png.name, "image_id": 1, "segments_info": segments}],
        "categories": categories,
    }
    (root / "annotations/panoptic_val2017.json").write_text(json.dumps(content))
    return tmp_path, labels


def test_coco_panoptic_is_prepared(panoptic):
    root, labels = panoptic
    data = load_dataset("coco-panoptic", root)
    plan = plan_preparation(data)
    assert (len(plan.jobs), plan.present) == (2, 0)
    plan.run()
    again = plan_preparation(data)
    assert (len(again.jobs), again.present) == (0, 2)
    split = load_dataset("coco-panoptic", root).split("val")
    assert split.instanced
    np.testing.assert_array_equal(split.labels(split.ids[0]), labels)
    numbers = split.instances(split.ids[0])
    found = {(int(n), int(c)) for n, c in zip(numbers.ravel(), labels.ravel(), strict=True)}
    assert found == {(1, CLASSES.index("wall-other-merged")), (2, 0), (3, 0), (0, 0), (0, 255)}
    before = split.identity(split.ids)
    (root / "coco/panoptic_instances/val2017/000000000001.png").write_bytes(b"other")
    assert split.identity(split.ids) != before
    with pytest.raises(DataError, match=r"000000000001\.png cannot be read as a label map"):
        split.instances(split.ids[0])


def test_coco_panoptic_has_the_captions_of_its_official_file(panoptic):
    root, _ = panoptic
    plan_preparation(load_dataset("coco-panoptic", root)).run()
    split = load_dataset("coco-panoptic", root).split("val")
    assert not split.captioned
    with pytest.raises(DataError, match="coco-panoptic has no captions"):
        split.captions(split.ids[0])
    before, file = split.identity(split.ids), root / "coco/annotations/captions_val2017.json"
    images = [{"id": k, "file_name": f"{k:012}.jpg"} for k in (1, 7)]
    texts = [(1, "A dog."), (7, "A cat."), (1, "A brown dog on a couch.")]
    captions = [{"image_id": k, "caption": text} for k, text in texts]
    file.write_text(json.dumps({"images": images, "annotations": captions}))
    split = load_dataset("coco-panoptic", root).split("val")
    assert split.captioned
    assert split.captions("000000000001") == ("A dog.", "A brown dog on a couch.")
    assert split.captions("000000000002") == ()
    assert split.identity(split.ids) == {**before, "captions": file.stat().st_size}
    (root / "coco/annotations/captions_train2017.json").write_text('{"images": [{"id": 1}]}')
    with pytest.raises(DataError, match=r"captions_train2017\.json is no COCO file of captions"):
        load_dataset("coco-panoptic", root).split("train").captions("000000000001")


def test_a_file_of_other_categories_is_refused(panoptic):
    root, _ = panoptic
    file = root / "coco/annotations/panoptic_val2017.json"
    file.write_text(file.read_text().replace("wall-other-merged", "wallpaper"))
    with pytest.raises(DataError, match="is no annotation file of COCO panoptic"):
        plan_preparation(load_dataset("coco-panoptic", root))


def test_all_of_context_is_prepared(tmp_path, rng):
    root = tmp_path / "VOCdevkit/VOC2010"
    labels = rng.integers(1, 460, (20, 30)).astype(np.uint16)
    write_image(root / "JPEGImages/2008_000001.jpg", class_map(rng, 59, 20, 30))
    for split in ("train", "val"):
        write_list(root / f"ImageSets/SegmentationContext/{split}.txt", ["2008_000001"])
    (root / "trainval").mkdir()
    savemat(root / "trainval/2008_000001.mat", {"LabelMap": labels.astype(np.float64)})
    data = load_dataset("context-459", tmp_path)
    plan_preparation(data).run()
    found = data.split("val").labels("2008_000001")
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, labels - 1)


def test_ade20k_in_the_fields_form(tmp_path, rng):
    root = tmp_path / "ADE20K_2021_17_01"
    labels = rng.integers(0, 847, (20, 30)).astype(np.uint16)
    labels[:3] = 65535
    write_image(root / "images_detectron2/validation/ADE_val_1.jpg", class_map(rng, 59, 20, 30))
    file = root / "annotations_detectron2/validation/ADE_val_1.tif"
    file.parent.mkdir(parents=True)
    Image.fromarray(labels).save(file)
    split = load_dataset("ade20k-full", tmp_path).split("val")
    np.testing.assert_array_equal(split.labels("ADE_val_1"), labels)


def test_frames_of_vipseg(tmp_path, rng):
    root = tmp_path / "VIPSeg"
    person = 60
    values = np.array([[0, 1, 124, 100 * (person + 1) + 3]], np.uint16)
    for video, frame in (("a", "1"), ("a", "2"), ("b", "7")):
        image = root / f"imgs/{video}/{frame}.jpg"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 1)).save(image)
        mask = root / f"panomasks/{video}/{frame}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(mask)
    write_list(root / "train.txt", ["a"])
    write_list(root / "val.txt", ["b"])
    data = load_dataset("vipseg", tmp_path)
    plan_preparation(data).run()
    train, val = data.split("train"), data.split("val")
    assert (train.ids, val.ids) == (("a/1", "a/2"), ("b/7",))
    assert val.labels("b/7").tolist() == [[255, 0, 123, person]]
    assert val.instances("b/7").tolist() == values.tolist()
