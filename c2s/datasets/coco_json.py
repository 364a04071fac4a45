"""Invariant: COCO's JSON files are read by what they hold: outlines and run lengths, or segments of a panoptic PNG."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2s.class_list import tidy
from c2s.datasets.convert import (
    Conversion,
    Pair,
    blank,
    painted,
    photo_folder,
    photo_id,
    polygons_mask,
    require_photo,
    smaller_last,
)
from c2s_cache import DataError
from c2s_cache.label_map import LabelMap
from c2s_cache.picture import decode_image


def read_coco(
    file: Path,
    content: Mapping[str, Any],
    images: Path | None,
    masks: Path | None,
    background: str | None,
) -> Conversion:
    """The annotations of a file in COCO's form, of instances or panoptic; also as Label Studio and CVAT export it.

    Where things overlap the smaller one lies on top. A pixel without any is ignored, or of the class `background`.

    Args:
        file: the JSON file.
        content: what it holds.
        images: folder of the photos; default: looked for beside the file.
        masks: folder of panoptic PNGs; default: the file's name without its ending.
        background: name of a class, the last.

    Raises:
        DataError: it is something else, or a photo or PNG is missing.
        ConfigError: the photos are not found.
    """
    if {"shapes", "imagePath"} <= set(content):
        raise DataError(
            f"{file} is LabelMe's, which has a file for each photo.",
            "LabelMe's own labelme2coco.py makes one COCO JSON of them: convert that.",
        )
    if not {"images", "annotations", "categories"} <= set(content):
        raise DataError(f"{file} is no COCO file: it has no images, annotations and categories.")
    try:
        named = {c["id"]: tidy(str(c["name"]), str(file)) for c in content["categories"]}
        photos = {image["id"]: image for image in content["images"]}
        by_image: dict[Any, list[Any]] = defaultdict(list)
        for annotation in content["annotations"]:
            if annotation["image_id"] not in photos:
                raise DataError(
                    f"{file} annotates an image {annotation['image_id']!r} that it does not list."
                )
            by_image[annotation["image_id"]].append(annotation)
        ids = {category: i for i, category in enumerate(sorted(named))}
        classes = (*(named[category] for category in sorted(named)), *filter(None, [background]))
        folder = images or photo_folder(file, [str(p["file_name"]) for p in photos.values()][:1])
        panoptic = any("segments_info" in a for a in content["annotations"])
        pngs = (masks or file.with_suffix("")) if panoptic else None
        fill = len(classes) - 1 if background else None
        pairs = {}
        for key, photo in sorted(photos.items(), key=lambda item: str(item[1]["file_name"])):
            name = require_photo(folder, str(photo["file_name"]))
            drawing = _Drawing(file, photo, by_image[key], ids, len(classes), pngs, fill)
            pairs[photo_id(name)] = Pair(folder / name, drawing)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file} is no COCO file: {error!r}.") from error
    boxes = sum(
        not a.get("segmentation") and "segments_info" not in a for a in content["annotations"]
    )
    bare = sum(not by_image[key] for key in photos)
    notes = [f"{boxes:,} annotations are boxes without an outline, and left out."] * bool(boxes)
    notes += [f"{bare:,} photos have no annotation."] * bool(bare)
    if len(pairs) != len(photos):
        raise DataError(f"{file} lists {len(photos) - len(pairs)} photos twice, by their names.")
    return Conversion(classes, pairs, tuple(notes))


def read_json(file: Path) -> Any:
    """What a JSON file holds.

    Raises:
        DataError: it is damaged or none.
    """
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is damaged or no JSON ({error}).") from error


@dataclass(frozen=True)
class _Drawing:
    """What a file says of a photo; calling it draws the label map.

    Attributes:
        file: the JSON file.
        photo: its entry there.
        annotations: those of the photo.
        ids: class id of every category.
        classes: how many there are.
        pngs: folder of panoptic PNGs; None: annotations are instances.
        fill: class of a pixel without any; None: it is ignored.
    """

    file: Path
    photo: Mapping[str, Any]
    annotations: list[Mapping[str, Any]]
    ids: Mapping[Any, int]
    classes: int
    pngs: Path | None
    fill: int | None

    def __call__(self) -> LabelMap:
        labels = blank(int(self.photo["height"]), int(self.photo["width"]), self.classes)
        if self.pngs is None:
            return painted(labels, smaller_last(self._instances(*labels.shape)), self.fill)
        self._draw_segments(labels, self.pngs)
        return painted(labels, (), self.fill)

    def _instances(self, height: int, width: int) -> list[tuple[NDArray[np.bool_], int]]:
        found = []
        for annotation in self.annotations:
            if not annotation.get("segmentation"):
                continue
            try:
                mask = _mask(annotation["segmentation"], height, width)
                found.append((mask, self.ids[annotation["category_id"]]))
            except (KeyError, TypeError, ValueError, IndexError) as error:
                name = self.photo["file_name"]
                raise DataError(
                    f"{self.file}: annotation {annotation.get('id')} of {name} cannot be read ({error!r})."
                ) from error
        return found

    def _draw_segments(self, labels: LabelMap, pngs: Path) -> None:
        """Of each segment its category: a segment's number is red + 256 green + 65536 blue of its pixels."""
        for annotation in self.annotations:
            png = pngs / str(annotation["file_name"])
            try:
                drawn = decode_image(png.read_bytes()).astype(np.uint32)
            except OSError as error:
                raise DataError(
                    f"panoptic PNG {png} cannot be read ({error.strerror}).",
                    "Name its folder with --masks.",
                ) from error
            if drawn.shape[:2] != labels.shape:
                name = self.photo["file_name"]
                raise DataError(f"{png} is of another size than {self.file} says of {name}.")
            number = drawn[..., 0] | drawn[..., 1] << 8 | drawn[..., 2] << 16
            for segment in annotation["segments_info"]:
                if (category := segment["category_id"]) not in self.ids:
                    raise DataError(f"{self.file}: {png.name} has the unknown category {category}.")
                labels[number == segment["id"]] = self.ids[category]


def _mask(segmentation: Any, height: int, width: int) -> NDArray[np.bool_]:
    """Mask [H, W] of polygons, or of run lengths, written as numbers or packed."""
    if isinstance(segmentation, list):
        return polygons_mask(segmentation, height, width)
    from c2s_pipeline.extras import require

    if [*segmentation["size"]] != [height, width]:
        raise ValueError(f"size {segmentation['size']} in an image of {height} x {width}")
    mask = require("pycocotools.mask", "convert")
    runs = segmentation
    if isinstance(segmentation["counts"], list):
        runs = mask.frPyObjects(segmentation, height, width)
    inside: NDArray[np.bool_] = mask.decode(runs) > 0
    return inside
