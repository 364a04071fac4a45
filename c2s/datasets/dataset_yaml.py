"""Invariant: what another tool's YAML describes is found where that tool finds it, or refused in a sentence."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from c2s.datasets.convert import (
    Conversion,
    Pair,
    blank,
    find_photo,
    painted,
    photo_id,
    polygons_mask,
    smaller_last,
)
from c2s.datasets.photos import list_photos
from c2s.datasets.spelling import USUAL_SPLITS
from c2s.strict_yaml import read_yaml
from c2s_cache import ConfigError, DataError
from c2s_cache.label_map import LabelMap
from c2s_cache.picture import decode_image
from c2s_cache.text_file import read_text


def read_folders(file: Path) -> dict[str, Any] | None:
    """What a classes.yaml says for LightlyTrain's YAML of masks; None: it is none.

    Raises:
        ConfigError: a class has several mask values, or folders are not named or not there.
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
        places = {key: file.parent / str(folders[key]) for key in ("images", "masks")}
        absent = next((place for place in places.values() if not place.is_dir()), None)
        if absent is not None:
            raise ConfigError(
                f"{file}: {absent}, a folder of `{split}`, is not there.",
                "Write folders as seen from this file, or put it where they are.",
            )
        said[split] = {key: str(place.resolve()) for key, place in places.items()}
    return said


def read_outlines(file: Path) -> dict[str, Conversion] | None:
    """Splits of ultralytics' YAML, with outlines in text files beside the images; None: it is none.

    Raises:
        ConfigError: a split is neither a folder of images nor a list of them.
        DataError: a line of an outline cannot be read, or an image of a list is not there.
    """
    content = read_yaml(file)
    names = content.get("names")
    if names is None or not any(isinstance(content.get(s), str | list) for s in USUAL_SPLITS):
        return None
    listed = names if isinstance(names, list) else [names[k] for k in sorted(names, key=int)]
    classes = tuple(map(str, listed))
    base = file.parent / Path(str(content.get("path") or ".")).expanduser()
    # The last name of `path` is that of the data set, wherever its file lies now.
    here = file.resolve().parent
    places = (base, file.parent / base.name, file.parent, here.parent / base.name, here.parent)
    bases = [folder for folder in dict.fromkeys(places) if folder.is_dir()]
    return {
        split: _outlined(file, bases, content[split], classes)
        for split in USUAL_SPLITS
        if content.get(split)
    }


def _outlined(file: Path, bases: list[Path], given: Any, classes: tuple[str, ...]) -> Conversion:
    pairs: dict[str, Pair] = {}
    bare = 0
    for one in given if isinstance(given, list) else [given]:
        for image_id, photo in _photos(file, bases, str(one)).items():
            if image_id in pairs:
                raise DataError(f"{file}: a split has two images called {image_id}.")
            text = _text_file(file, photo)
            bare += not text.is_file()
            pairs[image_id] = Pair(photo, partial(_draw, photo, text, len(classes)))
    return Conversion(classes, pairs, (f"{bare:,} photos have no annotation.",) * bool(bare))


def _photos(file: Path, bases: list[Path], given: str) -> dict[str, Path]:
    """Photos by id, of a folder of them or of a text file that lists them."""
    ways = (given, given.removeprefix("../"))  # Roboflow's begins beside the folder that holds it
    for place in (base / way for way in ways for base in bases):
        if place.is_dir():
            return {i: place / path for i, path in sorted(list_photos(place).files.items())}
        if place.suffix == ".txt" and place.is_file():
            break
    else:
        raise ConfigError(
            f"{file}: there is no folder of images {given} in {' or '.join(str(b.resolve()) for b in bases)}.",
            "Say in the file where images/ and labels/ are: path: FOLDER, as seen from the file.",
        )
    photos = {}
    for line in filter(None, map(str.strip, read_text(place, "the list").splitlines())):
        found = next((b / p for b in bases if (p := find_photo(b, line)) is not None), None)
        if found is None:
            raise DataError(f"{place} lists {line}, which is not below {bases[0]}.")
        photos[photo_id(found.as_posix().rpartition("/images/")[2])] = found
    return photos


def _text_file(file: Path, photo: Path) -> Path:
    """Where the outlines of a photo are: in labels, as the photo is in images."""
    parts = photo.parts
    if "images" not in parts[:-1]:
        raise ConfigError(
            f"{file}: {photo.parent} has no folder images on the way, whose text files lie in labels."
        )
    last = len(parts) - 1 - parts[::-1].index("images")
    return Path(*parts[:last], "labels", *parts[last + 1 :]).with_suffix(".txt")


def _draw(photo: Path, text: Path, classes: int) -> LabelMap:
    """Label map of outlines `class x y x y ...`, from 0 to 1 of the photo's sides; smaller ones on top."""
    height, width = decode_image(photo.read_bytes()).shape[:2]
    found = []
    lines = read_text(text, "the outlines").splitlines() if text.is_file() else ()
    for line in filter(str.strip, lines):
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
    return painted(blank(height, width, classes), smaller_last(found))
