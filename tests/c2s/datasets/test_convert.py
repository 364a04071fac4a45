"""What other tools export, converted and read back as a folder of one's own."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco_mask
from scipy.io import savemat

from c2s.cli.data_convert import convert_data
from c2s.datasets import load_dataset
from c2s.datasets.check import check_split
from c2s_cache import C2SError, ConfigError, DataError

CLASSES = ("cat", "dog", "grass")
CATEGORIES = [
    {"id": i, "name": name} for i, name in zip((17, 5, 90), ("dog", "cat", "grass"), strict=True)
]
OUTSIDE = 255


@pytest.fixture
def world(tmp_path, rng):
    """Two photos below val2017/, and their label maps: 0 to 2 are classes, 255 is none."""
    maps = {}
    (tmp_path / "val2017").mkdir()
    for name in ("a", "b"):
        labels = np.full((24, 40), OUTSIDE, np.uint8)
        labels[4:20, 6:30] = 0 if name == "a" else 2
        labels[8:12, 10:14] = 1
        Image.fromarray(rng.integers(0, 256, (24, 40, 3)).astype(np.uint8)).save(
            tmp_path / f"val2017/{name}.jpg"
        )
        maps[name] = labels
    return tmp_path, maps


def converted(source, out, **options):
    given = dict.fromkeys(("images", "masks", "classes", "background", "split"))
    return convert_data(source, out, **{**given, **options})


def require_same(out, maps, split, classes=CLASSES):
    """The folder is sound, and has these classes and label maps."""
    data = load_dataset(str(out))
    assert data.classes == classes
    found = data.split(split)
    assert check_split(found).problems == []
    for name, labels in maps.items():
        np.testing.assert_array_equal(found.labels(name), labels)


def coco(root, maps, annotations, name):
    images = [
        {"id": i, "file_name": f"{n}.jpg", "height": m.shape[0], "width": m.shape[1]}
        for i, (n, m) in enumerate(maps.items())
    ]
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (root / name).write_text(json.dumps(content))
    return root / name


def category(class_id):
    return (5, 17, 90)[class_id]


def box(labels, value):
    rows, columns = np.nonzero(labels == value)
    x0, x1, y0, y1 = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
    return [float(v) for v in (x0, y0, x1, y0, x1, y1, x0, y1)]


@pytest.mark.parametrize("form", ["polygons", "packed", "numbers"])
def test_coco_of_outlines_and_run_lengths(form, world):
    """The smaller one lies on top, whatever their order; what nothing covers is ignored, or a class."""
    root, maps = world
    annotations = []
    for i, labels in enumerate(maps.values()):
        for value in (1, *{0, 2} & {*np.unique(labels).tolist()}):
            inside = np.asfortranarray(labels == value)
            runs = coco_mask.encode(inside)
            runs["counts"] = runs["counts"].decode()
            if form == "polygons":
                runs = [box(labels, value)]
            elif form == "numbers":
                flat = inside.reshape(-1, order="F").astype(int)
                ends = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), len(flat)]
                runs = {"size": [24, 40], "counts": np.diff(ends).tolist()}
            one = {"id": len(annotations), "image_id": i, "category_id": category(value)}
            annotations.append({**one, "segmentation": runs})
    annotations.append({"id": 99, "image_id": 0, "category_id": 5, "bbox": [0, 0, 3, 3]})
    file = coco(root, maps, annotations, "instances_val2017.json")
    said = converted(file, root / "out")
    assert "1 annotations are boxes without an outline, and left out." in said
    require_same(root / "out", maps, "val")
    converted(file, root / "all", background="rest", split="train")
    filled = {name: np.where(m == OUTSIDE, 3, m) for name, m in maps.items()}
    require_same(root / "all", filled, "train", (*CLASSES, "rest"))
    with pytest.raises(ConfigError, match="has a split val already"):
        converted(file, root / "out")
    with pytest.raises(ConfigError, match="has other classes"):
        converted(file, root / "all", split="val")
    converted(file, root / "out", split="train")
    assert load_dataset(str(root / "out")).splits == ("train", "val")


def test_panoptic_png(world):
    root, maps = world
    (root / "panoptic_val2017").mkdir()
    annotations = []
    for i, (name, labels) in enumerate(maps.items()):
        number = np.zeros(labels.shape, np.uint32)
        segments = []
        for value in np.unique(labels[labels != OUTSIDE]).tolist():
            segments.append({"id": 70000 * (value + 1) + i, "category_id": category(value)})
            number[labels == value] = segments[-1]["id"]
        pixels = np.stack([number & 255, number >> 8 & 255, number >> 16], -1).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"panoptic_val2017/{name}.png")
        annotations.append({"image_id": i, "file_name": f"{name}.png", "segments_info": segments})
    file = coco(root, maps, annotations, "panoptic_val2017.json")
    converted(file, root / "out")
    require_same(root / "out", maps, "val")
    (root / "panoptic_val2017").rename(root / "elsewhere")
    with pytest.raises(DataError, match="Name its folder with --masks"):
        converted(file, root / "other")
    assert not (root / "other" / "masks" / "val").exists()
    converted(file, root / "other", masks=root / "elsewhere")
    require_same(root / "other", maps, "val")


@pytest.mark.parametrize("palette", ["labelmap.txt", "class_dict.csv"])
def test_masks_in_colour(palette, world):
    """As CVAT exports them, and copies of CamVid have them."""
    root, maps = world
    colours = [(0, 0, 0), (10, 200, 30), (128, 64, 128), (255, 255, 255)]
    names = (*CLASSES, "rest")
    (root / "val2017").rename(root / "JPEGImages")
    (root / "SegmentationClass").mkdir()
    filled = {name: np.where(m == OUTSIDE, 3, m).astype(np.uint8) for name, m in maps.items()}
    for name, labels in filled.items():
        drawn = np.array(colours, np.uint8)[labels]
        Image.fromarray(drawn).save(root / f"SegmentationClass/{name}.png")
    rows = [(n, ",".join(map(str, c))) for n, c in zip(names, colours, strict=True)]
    text = "# label:color_rgb:parts:actions\n" + "".join(f"{n}:{c}::\n" for n, c in rows)
    if palette == "class_dict.csv":
        text = "name,r,g,b\n" + "".join(f"{n},{c}\n" for n, c in rows)
    (root / palette).write_text(text)
    converted(root, root / "out")
    require_same(root / "out", filled, "train", names)
    (root / palette).write_text(text.replace("128,64,128", "128,64,129"))
    with pytest.raises(DataError, match=r"holds the colour \(128, 64, 128\)"):
        converted(root, root / "wrong")


def test_lists_of_masks_in_colour_are_splits(world):
    """As CVAT exports subsets, which it calls Train and Validation."""
    root, maps = world
    (root / "val2017").rename(root / "JPEGImages")
    (root / "SegmentationClass").mkdir()
    for name, labels in maps.items():
        drawn = np.array([(9, 9, 9), (0, 0, 0)], np.uint8)[(labels == OUTSIDE).astype(int)]
        Image.fromarray(drawn).save(root / f"SegmentationClass/{name}.png")
    (root / "labelmap.txt").write_text("thing:9,9,9::\nbackground:0,0,0::\n")
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for split, name in (("Train", "a"), ("Validation", "b")):
        (root / f"ImageSets/Segmentation/{split}.txt").write_text(f"{name}\n")
    want = {n: (m == OUTSIDE).astype(np.uint8) for n, m in maps.items()}
    converted(root, root / "out")
    require_same(root / "out", {"a": want["a"]}, "train", ("thing", "background"))
    require_same(root / "out", {"b": want["b"]}, "val", ("thing", "background"))
    converted(root, root / "all", split="train")
    require_same(root / "all", want, "train", ("thing", "background"))
    (root / "ImageSets/Segmentation/Validation.txt").write_text("c\n")
    with pytest.raises(DataError, match="names c, which has no mask"):
        converted(root, root / "other")


def test_names_in_a_matlab_file(world):
    """As clothing co-parsing has them beside its label maps, and COCO-Stuff in each of them."""
    root, maps = world
    (root / "annotations/pixel-level").mkdir(parents=True)
    for name, labels in maps.items():
        savemat(root / f"annotations/pixel-level/{name}.mat", {"groundtruth": labels})
    (root / "val2017").rename(root / "photos")
    listed = np.array(CLASSES, dtype=object).reshape(1, -1)
    savemat(root / "label_list.mat", {"label_list": listed})
    converted(root / "annotations/pixel-level", root / "out", images=root / "photos")
    require_same(root / "out", maps, "train")
    (root / "annotations/image-level").mkdir()
    shutil.copy(root / "photos/a.jpg", root / "photos/c.jpg")
    savemat(root / "annotations/image-level/c.mat", {"tags": np.arange(3)})
    for source, name in ((root, "found"), (root / "annotations", "also")):
        said = converted(source, root / name, images=root / "photos")
        assert any("other .mat files" in sentence for sentence in said)
        require_same(root / name, maps, "train")
    savemat(root / "annotations/image-level/c.mat", {"tags": maps["a"]})
    with pytest.raises(DataError, match=r"no photo image-level/c .* that of their photos"):
        converted(root / "annotations", root / "other", images=root / "photos")
    (root / "label_list.mat").unlink()
    for name, labels in maps.items():
        content = {"S": labels, "names": listed, "captions": np.array(["a b", "c"], dtype=object)}
        savemat(root / f"annotations/pixel-level/{name}.mat", content)
    converted(root / "annotations/pixel-level", root / "each", images=root / "photos")
    require_same(root / "each", maps, "train")


@pytest.mark.parametrize("form", ["GTcls", "LabelMap"])
def test_label_maps_of_matlab(form, world):
    root, maps = world
    (root / "cls").mkdir()
    for name, labels in maps.items():
        content = {"LabelMap": labels, "small": np.ones((2, 2))}
        if form == "GTcls":
            content = {"GTcls": {"Segmentation": labels, "Boundaries": np.zeros((3, 1))}}
        savemat(root / f"cls/{name}.mat", content)
    options = {"images": root / "val2017"}
    with pytest.raises(ConfigError, match=r"--classes @names\.txt"):
        converted(root / "cls", root / "out", **options)
    converted(root / "cls", root / "out", classes="cat, dog, grass", **options)
    require_same(root / "out", maps, "train")
    (root / "cls/a.mat").write_bytes(b"nothing")
    with pytest.raises(DataError, match="no MATLAB file"):
        converted(root / "cls", root / "other", classes="cat, dog, grass", **options)


def test_yaml_of_masks(world):
    """LightlyTrain's: folders per split, and mask values with gaps; nothing is copied."""
    root, maps = world
    (root / "masks").mkdir()
    for name, labels in maps.items():
        values = np.array([7, 3, 250], np.uint8)[np.minimum(labels, 2)]
        Image.fromarray(np.where(labels == OUTSIDE, 99, values).astype(np.uint8)).save(
            root / f"masks/{name}.png"
        )
    content = {
        "train": {"images": "val2017", "masks": "masks"},
        "classes": {7: {"name": "cat", "values": [7]}, 3: "dog", 250: "grass", 99: "none"},
        "ignore_classes": [99],
    }
    (root / "config.yaml").write_text(yaml.safe_dump(content))
    converted(root / "config.yaml", root / "out")
    order = np.array([1, 0, 2], np.uint8)
    want = {n: np.where(m == OUTSIDE, m, order[np.minimum(m, 2)]) for n, m in maps.items()}
    require_same(root / "out", want, "train", ("dog", "cat", "grass"))
    content["train"]["images"] = "images/val2017"
    (root / "config.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="images/val2017, a folder of `train`, is not there"):
        converted(root / "config.yaml", root / "other")
    content["train"]["images"] = "val2017"
    content["classes"][7]["values"] = [7, 8]
    (root / "config.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="'cat' has 2 mask values"):
        converted(root / "config.yaml", root / "other")


def test_yaml_of_outlines(world):
    """Ultralytics': text files beside the images, with corners from 0 to 1."""
    root, maps = world
    (root / "images").mkdir()
    (root / "val2017").rename(root / "images/val")
    (root / "labels/val").mkdir(parents=True)
    for name, labels in maps.items():
        lines = []
        for value in np.unique(labels[labels != OUTSIDE]).tolist():
            corners = np.array(box(labels, value)).reshape(-1, 2) / (40, 24)
            lines.append(" ".join(map(str, (value, *corners.reshape(-1).tolist()))))
        (root / f"labels/val/{name}.txt").write_text("\n".join(reversed(["", *lines, " "])))
    content = {"path": "nowhere", "val": "images/val", "names": dict(enumerate(CLASSES))}
    (root / "data.yaml").write_text(yaml.safe_dump(content))
    converted(root / "data.yaml", root / "out")
    require_same(root / "out", maps, "val")
    (root / "list.txt").write_text("./images/val/b.jpg\ndata/images/val/a.jpg\n")
    (root / "config").mkdir()
    for place, given in (
        ("data.yaml", "list.txt"),
        ("data.yaml", ["images/val"]),
        ("config/data.yaml", "../images/val"),
        ("config/data.yaml", "images/val"),
    ):
        (root / place).write_text(yaml.safe_dump({"train": given, "names": list(CLASSES)}))
        converted(root / place, root / "again")
        named = {f"val/{n}" if given == "list.txt" else n: m for n, m in maps.items()}
        require_same(root / "again", named, "train")
        shutil.rmtree(root / "again")
    away = (
        root / "data.yaml"
    )  # as ultralytics has it, whose `path` is below a folder that is not here
    for file, path in (
        (away, f"../datasets/{root.name}"),
        (root.parent / "d.yaml", f"/x/{root.name}"),
    ):
        file.write_text(yaml.safe_dump({**content, "path": path}))
        converted(file, root / "moved")
        require_same(root / "moved", maps, "val")
        shutil.rmtree(root / "moved")
    (root / "data.yaml").write_text(yaml.safe_dump({**content, "val": "nowhere"}))
    with pytest.raises(ConfigError, match=rf"no folder of images nowhere in {root}.* path: FOLDER"):
        converted(root / "data.yaml", root / "other")
    (root / "list.txt").write_text("images/val/c.jpg\n")
    (root / "data.yaml").write_text(yaml.safe_dump({"train": "list.txt", "names": list(CLASSES)}))
    with pytest.raises(DataError, match=r"lists images/val/c\.jpg, which is not below"):
        converted(root / "data.yaml", root / "other")
    (root / "data.yaml").write_text(yaml.safe_dump(content))
    (root / "labels/val/a.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(DataError, match="holds boxes, not outlines"):
        converted(root / "data.yaml", root / "other")
    assert not (root / "other").exists()


@pytest.mark.parametrize(
    ("file", "split"),
    [
        ("instances_Validation.json", "val"),
        ("coco-test2017.json", "test"),
        ("interval.json", "train"),
        ("retest_trainval.json", "train"),
    ],
)
def test_a_split_is_a_word_of_the_files_name(world, file, split):
    root, maps = world
    (root / "val2017").rename(root / "photos")
    whole = [
        {"id": i, "image_id": i, "category_id": 5, "segmentation": [[0, 0, 40, 0, 40, 24, 0, 24]]}
        for i in range(len(maps))
    ]
    converted(coco(root, maps, whole, file), root / "out")
    assert load_dataset(str(root / "out")).splits == (split,)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", "[1", "is damaged or no JSON"),
        ("x.json", "[]", "has no region"),
        ("x.json", "[3]", "is no export of Label Studio"),
        ("x.json", "{}", "is no COCO file: it has no images"),
        ("x.json", "3", "cannot be converted: expected"),
        ("x.json", '{"shapes": [], "imagePath": "a.jpg"}', "is LabelMe's.*labelme2coco"),
        ("x.json", '{"images": [], "annotations": [], "categories": [{}]}', "is no COCO file"),
        (
            "x.json",
            '{"images": [{"id": 1}], "annotations": [{"image_id": 2}], "categories": []}',
            "does not list",
        ),
        ("x.xml", "<annotations/>", "is no export of CVAT"),
        ("x.yaml", "a: b", "cannot be converted: expected"),
        ("x.zip", "", "cannot be converted: expected.*Unpack it first"),
        ("y.mat", "", "cannot be converted: expected.*Name the folder: c2s data convert "),
        ("x/task-3-annotation-7-by-1-tag-cat-0.png", "", "PNG files of Label Studio.*Export JSON"),
        ("x/readme", "", "has neither .mat files nor a labelmap.txt"),
    ],
)
def test_what_cannot_be_converted_is_one_sentence(name, content, message, tmp_path):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(content)
    with pytest.raises(C2SError, match=message) as caught:
        converted(file.parent if name.startswith("x/") else file, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_originals_stay_as_they_are(world):
    root, maps = world
    annotations = [
        {"id": 1, "image_id": 0, "category_id": 5, "segmentation": [[1.0, 1, 9, 1, 9, 9]]}
    ]
    file = coco(root, maps, annotations, "instances_val2017.json")
    before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
    said = converted(file, root / "out")
    assert "1 photos have no annotation." in said
    assert {p: p.read_bytes() for p in before} == before


def test_a_second_split_goes_beside_a_classes_file_that_was_edited(world):
    root, maps = world
    annotations = [
        {"id": 1, "image_id": 0, "category_id": 5, "segmentation": [[1.0, 1, 9, 1, 9, 9]]}
    ]
    file = coco(root, maps, annotations, "instances_val2017.json")
    assert converted(file, root / "out")[-1].startswith(f"Then look: c2s data check {root}/out; ")
    own = root / "out/classes.yaml"
    edited = own.read_text() + "unseen: [dog]\n"
    own.write_text(edited)
    converted(file, root / "out", split="train")
    assert own.read_text() == edited
    assert load_dataset(str(root / "out")).splits == ("train", "val")
    own.write_text(edited.replace("grass", "lawn"))
    with pytest.raises(ConfigError, match="has other classes"):
        converted(file, root / "out", split="test")
