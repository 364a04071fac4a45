"""Invariant: a converted split appears whole or not at all; what it was made from is never touched."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from c2s.class_list import require_each_once
from c2s.datasets.custom import CLASSES_FILE
from c2s.datasets.list_file import tails
from c2s.datasets.photos import SUFFIXES, without
from c2s.datasets.spelling import spelled
from c2s.strict_yaml import read_yaml
from c2s_cache import ConfigError, DataError
from c2s_cache.label_map import LabelMap, ignored_id, label_type


@dataclass(frozen=True)
class Pair:
    """A photo, and what makes its label map [H, W]: class numbers, the largest of their type ignored."""

    photo: Path
    labels: Callable[[], LabelMap]


@dataclass(frozen=True)
class Conversion:
    """A split to write in the layout of a folder of one's own.

    Attributes:
        classes: names, mask value 0 first.
        pairs: by image id, in a fixed order.
        notes: sentences on what was left out.
    """

    classes: tuple[str, ...]
    pairs: Mapping[str, Pair]
    notes: tuple[str, ...] = ()

    def write(self, out: Path, split: str, advance: Callable[[int], None]) -> None:
        """Write images/SPLIT, masks/SPLIT and classes.yaml; photos are linked where the file system can, else copied.

        Raises:
            ConfigError: the split is there already, or classes.yaml has other classes.
            DataError: an annotation cannot be read, or the disk refuses.
        """
        require_each_once(self.classes, "the annotations")
        self._check(out, split)
        images, masks = out / "images" / split, out / "masks" / split
        part = out / "masks" / f".{split}.part"
        try:
            shutil.rmtree(part, ignore_errors=True)
            for image_id, pair in self.pairs.items():
                file = part / f"{image_id}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pair.labels()).save(file)
                advance(1)
            for image_id, pair in self.pairs.items():
                photo = images / f"{image_id}{pair.photo.suffix}"
                photo.parent.mkdir(parents=True, exist_ok=True)
                _link(pair.photo, photo)
            # One that is there has these classes, and perhaps more to say.
            if not (out / CLASSES_FILE).exists():
                write_classes(out, {"classes": list(self.classes)})
            part.replace(masks)
        except OSError as error:
            raise DataError(
                f"{error.filename} cannot be written ({error.strerror}).",
                "Free space or fix permissions, then run the same command again.",
            ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
            for empty in (part.parent, out):
                with contextlib.suppress(OSError):
                    empty.rmdir()  # it refuses what is not empty

    def _check(self, out: Path, split: str) -> None:
        if (out / "masks" / split).exists():
            raise ConfigError(
                f"{out} has a split {split} already.",
                "Name another with --split, or another --out.",
            )
        there = out / CLASSES_FILE
        if there.exists() and read_yaml(there).get("classes") != list(self.classes):
            raise ConfigError(f"{there} has other classes.", "Name another folder with --out.")


def write_classes(out: Path, content: Mapping[str, object]) -> None:
    """Write a classes.yaml.

    Raises:
        ConfigError: another one is there.
    """
    file = out / CLASSES_FILE
    text = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)
    if file.exists():
        if read_yaml(file) == dict(content):
            return
        raise ConfigError(f"{file} is there already.", "Name another folder with --out.")
    out.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def photo_id(path: str) -> str:
    """What a photo is called below its folder, without its ending."""
    return without(path, SUFFIXES) or path


def photo_folder(file: Path, wanted: Sequence[str]) -> Path:
    """Where the photos of an export lie: of the places where tools put them, the first that has one of these.

    Raises:
        ConfigError: none has.
    """
    split = file.stem.rpartition("_")[2]
    for base in (file.parent, file.parent.parent):
        places = (f"images/{split}", "images", "photos", split, ".")
        for folder in (base / (spelled(base, place) or place) for place in places):
            if any(find_photo(folder, name) is not None for name in wanted):
                return folder
    raise ConfigError(
        f"the photos of {file} are not beside it ({wanted[0] if wanted else 'it lists none'}).",
        "Name their folder with --images.",
    )


def find_photo(folder: Path, name: str) -> str | None:
    """Path of a photo below the folder, which a file may name with other folders in front; None: it is not there."""
    below = (tail for tail in tails(name) if ".." not in tail.split("/"))
    return next((tail for tail in below if (folder / tail).is_file()), None)


def require_photo(folder: Path, name: str) -> str:
    """As `find_photo`. Raises `DataError` if it is not there."""
    found = find_photo(folder, name)
    if found is None:
        raise DataError(f"{folder} has no photo {name}.", "Name the right folder with --images.")
    return found


Region = tuple[NDArray[np.bool_], int]
"""A mask [H, W] and its class id."""


def blank(height: int, width: int, classes: int) -> LabelMap:
    """A label map [H, W] in which nothing is annotated, of the type that so many classes need."""
    kind = label_type(classes)
    return np.full((height, width), ignored_id(kind), kind)


def painted(labels: LabelMap, regions: Sequence[Region], background: int | None = None) -> LabelMap:
    """The label map with regions on it, later ones on top; what stays ignored becomes the class `background`."""
    for mask, class_id in regions:
        labels[mask] = class_id
    if background is not None:
        labels[labels == ignored_id(labels.dtype)] = background
    return labels


def smaller_last(regions: Sequence[Region]) -> list[Region]:
    """Regions of which nothing says how they lie: smaller ones are taken to lie on top."""
    return sorted(regions, key=lambda region: -int(region[0].sum()))


def polygons_mask(polygons: list[list[float]], height: int, width: int) -> NDArray[np.bool_]:
    """Mask [H, W] of polygons [x, y, x, y, ...] in pixels, as pycocotools fills them.

    Raises:
        MissingExtra: it is not installed.
    """
    from c2s_pipeline.extras import require

    mask = require("pycocotools.mask", "convert")
    whole = [p for p in polygons if len(p) >= 6]
    if not whole:
        return np.zeros((height, width), np.bool_)
    filled: NDArray[np.bool_] = mask.decode(mask.merge(mask.frPyObjects(whole, height, width))) > 0
    return filled


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
