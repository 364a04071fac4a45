"""Invariant: a folder of masks in colour or of MATLAB files becomes one of class numbers, pixel by pixel."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from c2s.class_list import tidy
from c2s.datasets.convert import Conversion, Pair
from c2s.datasets.descriptor import LabelEncoding
from c2s.datasets.label_file import read_label_file, strangers
from c2s.datasets.photos import list_photos
from c2s_cache import ConfigError, DataError
from c2s_cache.label_map import LabelMap, label_type
from c2s_cache.text_file import read_text

PALETTES = ("labelmap.txt", "class_dict.csv")
"""Files of names and colours, as CVAT's export "Segmentation mask" and copies of CamVid have them."""
MASKS = ("SegmentationClass", "masks", "labels", "")
PHOTOS = ("JPEGImages", "images")

Colours = Mapping[tuple[int, int, int], int]


def read_mask_folder(folder: Path, images: Path | None, names: Sequence[str]) -> Conversion:
    """Masks drawn in the colours of a palette file beside them, or the label maps in MATLAB files.

    Args:
        folder: of the masks, or the one that holds them and the photos.
        images: folder of the photos, where it is another than JPEGImages or images in it.
        names: of the values of MATLAB files, 0 first.

    Raises:
        ConfigError: there is neither, or the names or photos are missing.
        DataError: a file cannot be read, or a mask has no photo.
    """
    palette = next((file for name in PALETTES if (file := folder / name).is_file()), None)
    ending = ".mat" if palette is None else ".png"
    places = (folder / name for name in MASKS if (folder / name).is_dir())
    masks = next((place for place in places if any(place.rglob(f"*{ending}"))), None)
    if masks is None:
        raise ConfigError(
            f"{folder} has neither .mat files nor a {' or '.join(PALETTES)} beside masks in colour.",
            "Masks of class numbers need no converting: c2s data init FOLDER.",
        )
    if palette is None and not names:
        raise ConfigError(
            f"{masks} names no classes: MATLAB files hold numbers.",
            "Say the names of the values, 0 first: --classes @names.txt",
        )
    photos = images or next((p for n in PHOTOS if (p := folder / n).is_dir()), None)
    if photos is None:
        raise ConfigError(f"there are no photos in {folder}.", "Name their folder with --images.")
    if palette is not None:
        names, colours = read_palette(palette)
    there, pairs = list_photos(photos).files, {}
    for image_id, path in sorted(list_photos(masks, (ending,)).files.items()):
        if image_id not in there:
            raise DataError(f"{photos} has no photo {image_id} for {masks / path}.")
        read = (
            partial(_numbers, masks / path)
            if palette is None
            else partial(_coloured, masks / path, colours)
        )
        pairs[image_id] = Pair(photos / there[image_id], partial(_typed, read, len(names)))
    bare = len(there) - len(pairs)
    return Conversion(tuple(names), pairs, (f"{bare:,} photos have no mask.",) * bool(bare))


def read_palette(file: Path) -> tuple[tuple[str, ...], Colours]:
    """Names, and class numbers by colour, of lines `name:red,green,blue:...` or `name,red,green,blue`.

    Raises:
        DataError: a line is neither, or two classes have one colour.
    """
    names: list[str] = []
    colours: dict[tuple[int, int, int], int] = {}
    for row in csv.reader(read_text(file, "the palette").splitlines()):
        line = ",".join(row)
        if not line.strip() or line.startswith("#") or line.lower().startswith("name,"):
            continue
        name, colon, rest = line.partition(":")
        values = rest.split(":")[0].split(",") if colon else row[1:4]
        try:
            red, green, blue = (int(value) for value in values)
        except ValueError as error:
            raise DataError(f"{file}: {line!r} names no class and its colour.") from error
        if (red, green, blue) in colours:
            raise DataError(f"{file} gives the colour {(red, green, blue)} to two classes.")
        colours[red, green, blue] = len(names)
        names.append(tidy(name if colon else row[0], str(file)))
    return tuple(names), colours


def _typed(read: partial[NDArray[np.integer]], classes: int) -> LabelMap:
    """Values as the type of label maps of so many classes; the largest of 8 bits stays "ignored"."""
    values, kind = read(), label_type(classes)
    if values.max() > np.iinfo(kind).max:
        raise DataError(
            f"{read.args[0]} holds the value {values.max()}; there are {classes} classes."
        )
    return values.astype(kind)


def _coloured(file: Path, colours: Colours) -> NDArray[np.integer]:
    encoding = LabelEncoding("colours", ".png", dict.fromkeys(colours.values()), colours)
    found = read_label_file(file.read_bytes(), str(file), encoding)
    for error, _ in strangers(
        found, np.unique(found.values[found.values < 0]).tolist(), str(file), len(colours)
    ):
        raise error
    return found.values


def _numbers(file: Path) -> NDArray[np.integer]:
    """The label map of a MATLAB file: the largest array [H, W] of whole numbers in it, or in a struct of it."""
    from c2s_pipeline.extras import require

    loadmat = require("scipy.io", "convert").loadmat
    try:
        content = loadmat(str(file), simplify_cells=True)
    except Exception as error:  # damaged files end in many ways, some of them of scipy's own
        raise DataError(f"{file} is damaged or no MATLAB file ({error}).") from error
    waiting, found = [v for k, v in content.items() if not k.startswith("__")], []
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype.kind in "buif":
            found.append(value)
    whole = [v for v in found if v.size and v.min() >= 0 and (v == np.floor(v)).all()]
    if not whole:
        raise DataError(f"{file} holds no label map: no array [H, W] of whole numbers.")
    largest: NDArray[np.integer] = max(whole, key=lambda v: v.size).astype(np.int64)
    return largest
