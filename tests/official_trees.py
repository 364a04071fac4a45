"""Small trees in the official layout of every data set, with label maps of known class ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from c2s.datasets.cityscapes import LABEL_IDS
from c2s.datasets.coco_stuff import RAW_VALUES
from c2s.datasets.voc import colour

Labels = NDArray[np.uint8]


def class_map(rng: np.random.Generator, classes: int, height: int = 24, width: int = 30) -> Labels:
    """Random rectangles of class ids below `classes` on 255."""
    labels = np.full((height, width), 255, np.uint8)
    for _ in range(5):
        y, x = rng.integers(0, height - 6), rng.integers(0, width - 6)
        labels[y : y + 12, x : x + 12] = rng.integers(0, classes)
    return labels


def write_image(path: Path, labels: Labels) -> None:
    """A photo of the size of its label map."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.repeat((labels % 251)[..., None], 3, 2)
    Image.fromarray(pixels).save(path)


def write_values(path: Path, labels: Labels, values: Sequence[int], ignored: int = 255) -> None:
    """A label map in the numbering of the file: `values[class id]`, and `ignored` for 255."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = np.full(256, ignored, np.uint8)
    table[: len(values)] = values
    Image.fromarray(table[labels]).save(path)


def write_list(path: Path, ids: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{i}\n" for i in ids), encoding="utf-8")


def voc_palette(image: Image.Image) -> Image.Image:
    """The same values as a palette image with VOC's colours."""
    image = image.convert("P") if image.mode != "L" else Image.fromarray(np.asarray(image), "P")
    image.putpalette([channel for value in range(256) for channel in colour(value)])
    return image


def make_voc(root: Path, rng: np.random.Generator) -> dict[str, dict[str, Labels]]:
    """VOC's own masks for a training and a validation image, SBD's for the other training image."""
    top = root / "VOCdevkit/VOC2012"
    truth: dict[str, dict[str, Labels]] = {"train": {}, "val": {}}
    for split, image_id, folder in (
        ("train", "2007_000001", "SegmentationClass"),
        ("train", "2008_000002", "SegmentationClassAug"),
        ("val", "2007_000003", "SegmentationClass"),
    ):
        labels = truth[split][image_id] = class_map(rng, 20)
        write_image(top / f"JPEGImages/{image_id}.jpg", labels)
        mask = top / folder / f"{image_id}.png"
        write_values(mask, labels, range(1, 21), 0)
        if folder == "SegmentationClass":
            with Image.open(mask) as image:
                drawn = voc_palette(image)
            drawn.save(mask)
    write_image(top / "JPEGImages/2009_000009.jpg", class_map(rng, 20))  # in no list
    write_list(top / "ImageSets/Segmentation/trainaug.txt", list(truth["train"]))
    write_list(top / "ImageSets/Segmentation/val.txt", list(truth["val"]))
    return truth


def make_context(root: Path, rng: np.random.Generator) -> dict[str, dict[str, Labels]]:
    """What `c2s data prepare context` leaves: 60-class maps, and lists of the images."""
    top = root / "VOCdevkit/VOC2010"
    truth: dict[str, dict[str, Labels]] = {"train": {}, "val": {}}
    for i, split in enumerate(("train", "train", "val")):
        image_id = f"2008_{i:06d}"
        labels = truth[split][image_id] = class_map(rng, 59)
        write_image(top / f"JPEGImages/{image_id}.jpg", labels)
        write_values(top / f"SegmentationClassContext/{image_id}.png", labels, range(1, 60), 0)
    for split, maps in truth.items():
        write_list(top / f"ImageSets/SegmentationContext/{split}.txt", list(maps))
    return truth


def make_ade20k(root: Path, rng: np.random.Generator) -> dict[str, dict[str, Labels]]:
    top = root / "ADEChallengeData2016"
    truth: dict[str, dict[str, Labels]] = {"train": {}, "val": {}}
    for split, folder in (("train", "training"), ("val", "validation")):
        for i in range(2):
            image_id = f"ADE_{split}_{i:08d}"
            labels = truth[split][image_id] = class_map(rng, 150)
            write_image(top / f"images/{folder}/{image_id}.jpg", labels)
            write_values(top / f"annotations/{folder}/{image_id}.png", labels, range(1, 151), 0)
    return truth


def make_cityscapes(root: Path, rng: np.random.Generator) -> dict[str, dict[str, Labels]]:
    """Raw label ids, with instance ids and polygons beside them as in the archive."""
    top = root / "cityscapes"
    truth: dict[str, dict[str, Labels]] = {"train": {}, "val": {}}
    for split, city in (("train", "aachen"), ("train", "bochum"), ("val", "lindau")):
        image_id = f"{city}/{city}_000000_000019"
        labels = truth[split][image_id] = class_map(rng, 19)
        write_image(top / f"leftImg8bit/{split}/{image_id}_leftImg8bit.png", labels)
        base = top / f"gtFine/{split}"
        write_values(base / f"{image_id}_gtFine_labelIds.png", labels, LABEL_IDS, 3)
        write_values(base / f"{image_id}_gtFine_instanceIds.png", labels, LABEL_IDS, 3)
        (base / f"{image_id}_gtFine_polygons.json").write_text("{}")
    return truth


def make_coco(root: Path, rng: np.random.Generator) -> dict[str, dict[str, Labels]]:
    top = root / "coco_stuff164k"
    truth: dict[str, dict[str, Labels]] = {"train": {}, "val": {}}
    for i, split in enumerate(("train", "train", "val")):
        image_id = f"{i:012d}"
        labels = truth[split][image_id] = class_map(rng, 171)
        write_image(top / f"images/{split}2017/{image_id}.jpg", labels)
        mask = top / f"stuffthingmaps_trainval2017/{split}2017/{image_id}.png"
        write_values(mask, labels, RAW_VALUES)
    return truth


TREES: dict[str, Callable[[Path, np.random.Generator], dict[str, dict[str, Labels]]]] = {
    "voc": make_voc,
    "coco-stuff": make_coco,
    "context": make_context,
    "ade20k": make_ade20k,
    "cityscapes": make_cityscapes,
}


def write_classes(root: Path, **content: object) -> None:
    """The `classes.yaml` of a folder of one's own."""
    (root / "classes.yaml").write_text(yaml.safe_dump(content))
