"""Invariant: what another tool's YAML describes is found where that tool finds it, or refused in a sentence."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from c2s.datasets.convert import Conversion, Pair, blank, polygons_mask
from c2s.datasets.custom import USUAL_SPLITS
from c2s.datasets.photos import list_photos
from c2s.strict_yaml import read_yaml
from c2s_cache import ConfigError, DataError
from c2s_cache.label_map import LabelMap
from c2s_cache.picture import decode_image
from c2s_cache.text_file import read_text


def read_folders(file: Path) -> dict[str, Any] | None:
    """What a classes.yaml says for LightlyTrain's YAML of masks; None: it is none.

    Raises:
        ConfigError: a class has several mask values, or folders are missing.
    """
    content = read_yaml(file)
    splits = {s: content[s] for s in USUAL_SPLITS if isinstance(content.get(s), dict)}
    classes = content.get("classes")
    if not splits or classes is None:
        return None
    said: dict[str, Any] = {"classes": {}}
    pairs = classes.items() if isinstance(classes, dict) else enumerate(classes)
    for key, given in pairs:
        if isinstance(given, dict):
            values = given.get("values") or given.get("labels") or [key]
            if len(values) != 1:
                raise ConfigError(
                    f"{file}: class {given.get('name')!r} has {len(values)} mask values; expected one.",
                    "Merge them in the masks.",
                )
            key, given = values[0], given.get("name")
        said["classes"][int(key)] = str(given)
    if content.get("ignore_classes"):
        said["ignore"] = [int(value) for value in content["ignore_classes"]]
    for split, folders in splits.items():
        if not {"images", "masks"} <= set(folders):
            raise ConfigError(f"{file}: `{split}` must name the folders images and masks.")
        said[split] = {
            key: str((file.parent / str(folders[key])).resolve()) for key in ("images", "masks")
        }
    return said


def read_outlines(file: Path) -> dict[str, Conversion] | None:
    """Splits of ultralytics' YAML, with outlines in text files beside the images; None: it is none.

    Raises:
        ConfigError: a split is no folder of images.
        DataError: a line of an outline cannot be read.
    """
    content = read_yaml(file)
    names = content.get("names")
    if names is None or not any(isinstance(content.get(s), str) for s in USUAL_SPLITS):
        return None
    listed = names if isinstance(names, list) else [names[k] for k in sorted(names, key=int)]
    classes = tuple(map(str, listed))
    base = file.parent / Path(str(content.get("path") or ".")).expanduser()
    base = base if base.is_dir() else file.parent
    return {
        split: _outlined(file, base / content[split], classes)
        for split in USUAL_SPLITS
        if isinstance(content.get(split), str)
    }


def _outlined(file: Path, images: Path, classes: tuple[str, ...]) -> Conversion:
    if not images.is_dir():
        raise ConfigError(f"{file}: there is no folder of images {images}.")
    parts = list(images.parts)
    if "images" not in parts:
        raise ConfigError(
            f"{file}: {images} has no folder images on the way, whose text files lie in labels."
        )
    last = len(parts) - 1 - parts[::-1].index("images")
    labels = Path(*parts[:last], "labels", *parts[last + 1 :])
    pairs, bare = {}, 0
    for image_id, path in sorted(list_photos(images).files.items()):
        text = labels / f"{image_id}.txt"
        bare += not text.is_file()
        pairs[image_id] = Pair(images / path, partial(_draw, images / path, text, len(classes)))
    return Conversion(classes, pairs, (f"{bare:,} photos have no annotation.",) * bool(bare))


def _draw(photo: Path, text: Path, classes: int) -> LabelMap:
    """Label map of outlines `class x y x y ...`, from 0 to 1 of the photo's sides; smaller ones on top."""
    height, width = decode_image(photo.read_bytes()).shape[:2]
    labels = blank(height, width, classes)
    found = []
    for line in read_text(text, "the outlines").splitlines() if text.is_file() else ():
        try:
            number, *places = (float(value) for value in line.split())
        except ValueError as error:
            raise DataError(f"{text}: {line[:80]!r} is no class and its outline.") from error
        if len(places) == 4:
            raise DataError(
                f"{text} holds boxes, not outlines: four numbers behind a class.",
                "Export them as segmentation (YOLO segment).",
            )
        if not 0 <= number < classes or len(places) < 6 or len(places) % 2:
            raise DataError(f"{text}: {line[:80]!r} is no class and its outline.")
        corners = np.array(places).reshape(-1, 2) * (width, height)
        found.append((polygons_mask([corners.reshape(-1).tolist()], height, width), int(number)))
    for mask, class_id in sorted(found, key=lambda pair: -int(pair[0].sum())):
        labels[mask] = class_id
    return labels
