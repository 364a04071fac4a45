"""Label Studio's JSON and CVAT's XML, converted and read back as a folder of one's own."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from c2s.cli.data_convert import convert_data
from c2s.datasets import load_dataset
from c2s.datasets.check import check_split
from c2s.datasets.label_studio import unpacked
from c2s_cache import C2SError, ConfigError, DataError

H, W = 24, 40
OUTSIDE = 255


@pytest.fixture
def photos(tmp_path, rng):
    """Two photos in images/."""
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        pixels = rng.integers(0, 256, (H, W, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/{name}.jpg")
    return tmp_path


def converted(source, out, **options):
    given = dict.fromkeys(("images", "masks", "classes", "background", "split"))
    return convert_data(source, out, **{**given, **options})


def require_same(out, maps, split="train", classes=("cat", "dog")):
    data = load_dataset(str(out))
    assert data.classes == classes
    found = data.split(split)
    assert check_split(found).problems == []
    assert found.ids == tuple(sorted(maps))
    for name, labels in maps.items():
        np.testing.assert_array_equal(found.labels(name), labels)


def bits(value, width):
    return format(value, f"0{width}b")


def packed(numbers, lengths=(3, 4, 8, 16)):
    """Numbers of 8 bits in the form of rle-pack: runs where three or more are equal, else as they are."""
    text = bits(len(numbers), 32) + bits(7, 5) + "".join(bits(n - 1, 4) for n in lengths)

    def length(count):
        which = next(i for i, n in enumerate(lengths) if count - 1 < 1 << n)
        return bits(which, 2) + bits(count - 1, lengths[which])

    ends = [*(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
    start, single = 0, []
    for end in ends:
        if end - start < 3:
            single += numbers[start:end].tolist()
        if single and (end - start >= 3 or end == len(numbers)):
            text += "0" + length(len(single)) + "".join(bits(n, 8) for n in single)
            single = []
        if end - start >= 3:
            text += "1" + length(end - start) + bits(int(numbers[start]), 8)
        start = end
    text += "0" * (-len(text) % 8)
    return [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]


def brushed(inside):
    """What Label Studio stores of a mask: pixels of four channels, of which the last is the brush."""
    pixels = np.zeros((*inside.shape, 4), np.uint8)
    pixels[inside] = (10, 200, 30, 255)
    return packed(pixels.reshape(-1))


def region(value, **more):
    return {"original_width": W, "original_height": H, "image_rotation": 0, "value": value, **more}


def task(name, *annotations, **more):
    kept = [{"was_cancelled": False, "result": list(result)} for result in annotations]
    return {"id": 1, "data": {"image": f"/data/upload/1/{name}"}, "annotations": kept, **more}


def outline(x0, y0, x1, y1):
    """Corners in per cent of the sides."""
    corners = ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
    return [[100 * x / W, 100 * y / H] for x, y in corners]


@pytest.fixture
def cats():
    """A label map of a cat below a smaller dog."""
    labels = np.full((H, W), OUTSIDE, np.uint8)
    labels[4:20, 6:30] = 0
    labels[8:12, 10:14] = 1
    return labels


def test_brushes_and_outlines_of_label_studio(photos, cats):
    """In whatever order: the smaller one lies on top. Uploads have eight digits before their names."""
    brush = region({"format": "rle", "rle": brushed(cats != OUTSIDE), "brushlabels": ["cat"]})
    dog = region({"points": outline(10, 8, 14, 12), "polygonlabels": ["dog"]})
    old = region({"points": outline(0, 0, 40, 24), "polygonlabels": ["dog"]})
    box = region({"x": 1, "y": 1, "width": 5, "height": 5, "rectanglelabels": ["cat"]})
    bare = region({"points": outline(0, 0, 40, 24), "polygonlabels": []})
    first = task("0123abcd-a.jpg", [old], [dog, brush, box, bare])
    first["annotations"].append({"was_cancelled": True, "result": [old]})
    second = task("?", [])
    second["data"] = {"key": 3, "image": "/data/local-files/?d=some%2Fwhere/b.jpg"}
    (photos / "p.json").write_text(json.dumps([first, second]))
    said = converted(photos / "p.json", photos / "out", background="rest")
    rest = np.where(cats == OUTSIDE, 2, cats)
    require_same(
        photos / "out", {"a": rest, "b": np.full((H, W), 2)}, classes=("cat", "dog", "rest")
    )
    assert said[1:5] == [
        "1 photos have several annotations; the last of each counts.",
        "1 boxes, ellipses or points outline no area, and are left out.",
        "1 regions have no label, and are left out.",
        "1 photos have no annotation.",
    ]
    converted(photos / "p.json", photos / "named", classes="bird, dog, cat", split="val")
    empty = np.full((H, W), OUTSIDE)
    order = np.where(cats == 0, 2, cats)
    require_same(photos / "named", {"a": order, "b": empty}, "val", ("bird", "dog", "cat"))
    with pytest.raises(DataError, match="regions of 'cat', which --classes does not name"):
        converted(photos / "p.json", photos / "other", classes="dog")


def test_label_studio_without_what_surrounds_the_regions(photos, cats):
    """JSON-MIN."""
    flat = {"original_width": W, "original_height": H}
    regions = [
        {**flat, "format": "rle", "rle": brushed(cats != OUTSIDE), "brushlabels": ["cat"]},
        {**flat, "points": outline(10, 8, 14, 12), "polygonlabels": ["dog"]},
    ]
    tasks = [{"id": 1, "image": "s3://bucket/images/a.jpg", "tag": regions, "rating": 3}]
    (photos / "p.json").write_text(json.dumps(tasks))
    converted(photos / "p.json", photos / "out")
    require_same(photos / "out", {"a": cats})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {"rle": packed(np.zeros(8, np.uint8)), "brushlabels": ["cat"]},
            "8 numbers, where its size",
        ),
        ({"rle": brushed(np.eye(H, W) > 0)[:-9], "brushlabels": ["cat"]}, "bits end before"),
        ({"points": [["x", 1]], "polygonlabels": ["cat"]}, "cannot be read"),
        ({"points": outline(1, 1, 9, 9), "polygonlabels": ["cat"], "image_rotation": 90}, "turned"),
    ],
)
def test_a_region_that_cannot_be_read_is_one_sentence(photos, value, message):
    (photos / "p.json").write_text(json.dumps([task("a.jpg", [region(value)])]))
    with pytest.raises(DataError, match=message):
        converted(photos / "p.json", photos / "out")
    assert not (photos / "out/masks/train").exists()


def test_packed_numbers_are_those_that_label_studio_packs():
    """The bytes are what `encode_rle` of label-studio-sdk 2.1.2 makes of the numbers."""
    numbers = [0, 0, 0, 0, 255, 255, 255, 255, 7, 9]
    theirs = [0, 0, 0, 10, 57, 27, 252, 96, 17, 255, 128, 14, 0, 72]
    assert unpacked(bytes(theirs), 10).tolist() == numbers
    rng = np.random.default_rng(0)
    many = rng.integers(0, 3, 400).astype(np.uint8).repeat(rng.integers(1, 30, 400))
    np.testing.assert_array_equal(unpacked(bytes(packed(many, (1, 2, 3, 16))), many.size), many)


def cvat(root, images, labels=("cat", "dog"), kind="task"):
    """annotations.xml of images: (name, attributes, shapes: (tag, attributes))."""
    top = ElementTree.Element("annotations")
    meta = ElementTree.SubElement(ElementTree.SubElement(top, "meta"), kind)
    listed = ElementTree.SubElement(meta, "labels")
    for name in labels:
        label = ElementTree.SubElement(listed, "label")
        ElementTree.SubElement(label, "name").text = name
        ElementTree.SubElement(label, "type").text = "tag" if name == "blurred" else "any"
    for name, attributes, shapes in images:
        size = {"name": name, "width": str(W), "height": str(H)}
        image = ElementTree.SubElement(top, "image", {**size, **attributes})
        for tag, given in shapes:
            ElementTree.SubElement(image, tag, given)
    ElementTree.ElementTree(top).write(root / "annotations.xml")
    return root / "annotations.xml"


def polygon(label, x0, y0, x1, y1, z=0):
    points = f"{x0}.00,{y0}.00;{x1}.00,{y0}.00;{x1}.00,{y1}.00;{x0}.00,{y1}.00"
    return "polygon", {"label": label, "points": points, "z_order": str(z)}


def brush(label, x0, y0, x1, y1, z=0):
    """A box without its first pixel, row by row."""
    rle = f"1, {(x1 - x0) * (y1 - y0) - 1}"
    box = {"left": x0, "top": y0, "width": x1 - x0, "height": y1 - y0, "z_order": z}
    return "mask", {"label": label, "rle": rle, **{k: str(v) for k, v in box.items()}}


def test_layers_of_cvat_and_its_run_lengths(photos):
    """A higher layer lies on top; in one layer what comes later."""
    shapes = [
        brush("dog", 10, 8, 14, 12, z=1),
        polygon("cat", 6, 4, 30, 20),
        polygon("dog", 20, 14, 24, 18),
        ("box", {"label": "cat", "xtl": "1"}),
    ]
    file = cvat(photos, [("a.jpg", {}, shapes), ("b.jpg", {}, [])], ("cat", "blurred", "dog"))
    want = np.full((H, W), OUTSIDE, np.uint8)
    want[4:20, 6:30] = 0
    want[14:18, 20:24] = 1
    want[8:12, 10:14] = 1
    want[8, 10] = 0
    said = converted(file, photos / "out")
    require_same(photos / "out", {"a": want, "b": np.full((H, W), OUTSIDE)})
    assert "left out, since they outline no area: 1 box." in said
    assert "1 photos have no annotation." in said
    converted(file, photos / "rest", background="rest")
    filled = np.where(want == OUTSIDE, 2, want)
    require_same(
        photos / "rest", {"a": filled, "b": np.full((H, W), 2)}, classes=("cat", "dog", "rest")
    )


@pytest.mark.parametrize("named", [True, False])
def test_subsets_of_cvat_are_splits(photos, named):
    """The name of an image may have the folder of its subset in front, or not."""
    for name, split in (("a", "Train"), ("b", "Validation")):
        (photos / "images" / split).mkdir()
        (photos / f"images/{name}.jpg").rename(photos / f"images/{split}/{name}.jpg")
    whole = [polygon("cat", 0, 0, W, H)]
    images = [
        (f"{split}/{name}.jpg" if named else f"{name}.jpg", {"subset": split}, whole)
        for name, split in (("a", "Train"), ("b", "Validation"))
    ]
    converted(cvat(photos, images, kind="project"), photos / "out")
    assert load_dataset(str(photos / "out")).splits == ("train", "val")
    for split, name in (("train", "a"), ("val", "b")):
        require_same(photos / "out", {name: np.zeros((H, W))}, split)


def test_a_subset_that_is_no_usual_split_is_said(photos):
    images = [(f"{name}.jpg", {"subset": "Cars"}, []) for name in "ab"]
    said = converted(cvat(photos, images), photos / "out")
    assert "2 photos of the subset 'Cars' are in the split train." in said


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (polygon("bird", 1, 1, 9, 9), "of a label that is not listed"),
        (("polygon", {"label": "cat"}), "without 'points'"),
        (("polygon", {"label": "cat", "points": "1,2;x,3"}), "cannot be read"),
        (brush("cat", 30, 1, 50, 9), "reaches out of the image"),
        (("mask", {**brush("cat", 1, 1, 5, 5)[1], "rle": "3,4"}), "do not fill 4 x 4"),
    ],
)
def test_a_shape_that_cannot_be_read_is_one_sentence(photos, shape, message):
    with pytest.raises(DataError, match=message):
        converted(cvat(photos, [("a.jpg", {}, [shape])]), photos / "out")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotations>", "damaged or no XML"),
        ("<html><image/></html>", "no export of CVAT"),
        ("<annotations><track/></annotations>", "tracks of a video.*CVAT for images"),
        ('<annotations><image name="a.jpg"/></annotations>', "lists no label"),
        (
            '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotations>&x;<image/></annotations>',
            "damaged or no XML",
        ),
    ],
)
def test_other_xml_is_one_sentence(photos, text, message):
    (photos / "annotations.xml").write_text(text)
    with pytest.raises(C2SError, match=message) as caught:
        converted(photos / "annotations.xml", photos / "out")
    assert "\n" not in str(caught.value)


def test_photos_that_are_elsewhere_are_named(photos):
    file = cvat(photos, [("a.jpg", {}, [polygon("cat", 0, 0, W, H)])])
    (photos / "images").rename(photos / "elsewhere")
    with pytest.raises(ConfigError, match="Name their folder with --images"):
        converted(file, photos / "out")
    converted(file, photos / "out", images=photos / "elsewhere")
    require_same(photos / "out", {"a": np.zeros((H, W))})
