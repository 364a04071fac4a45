"""Invariant: a folder of masks in colour or of MATLAB files becomes one of class numbers, pixel by pixel."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2s.class_list import tidy
from c2s.datasets.convert import Conversion, Pair
from c2s.datasets.descriptor import LabelEncoding
from c2s.datasets.export import OUTLINES, has_outlines
from c2s.datasets.label_file import read_label_file, strangers
from c2s.datasets.list_file import read_list
from c2s.datasets.photos import SUFFIXES, list_photos
from c2s.datasets.spelling import spelled, split_lists
from c2s_cache import ConfigError, DataError
from c2s_cache.label_map import LabelMap, label_type
from c2s_cache.text_file import read_text

PALETTES = ("labelmap.txt", "class_dict.csv")
"""Files of names and colours, as CVAT's export "Segmentation mask" and copies of CamVid have them."""
MASKS = ("SegmentationClass", "masks", "labels", "")
PHOTOS = ("JPEGImages", "images", "photos")
FEW = 8
TASK = re.compile(r"task-\d+-annotation-\d+-")
"""How Label Studio names the PNG files of brushed regions."""

Colours = Mapping[tuple[int, int, int], int]


def read_mask_folder(
    folder: Path, images: Path | None, names: Sequence[str], split: str | None
) -> dict[str, Conversion]:
    """Masks drawn in the colours of a palette file beside them, or the label maps in MATLAB files.

    Args:
        folder: of the masks, or the one that holds them and the photos.
        images: folder of the photos, where it is another than JPEGImages, images or photos in it.
        names: of the values of MATLAB files, 0 first; default: the list of names that one of these files holds.
        split: what to call all of them; default: as the lists in ImageSets/Segmentation say, or else "train".

    Raises:
        ConfigError: there is neither, or the names or photos are missing.
        DataError: a file cannot be read, or a mask has no photo.
    """
    palette = next(_existing(folder, PALETTES), None)
    ending = ".mat" if palette is None else ".png"
    masks = next(
        (p for p in _existing(folder, MASKS) if p.is_dir() and list_photos(p, (ending,)).files),
        None,
    )
    if masks is None:
        if any(TASK.match(file.name) for file in folder.glob("*.png")):
            raise ConfigError(
                f"{folder} holds PNG files of Label Studio, whose names do not say of which photos they are.",
                "Export JSON from Label Studio; brushed regions are in it.",
            )
        if has_outlines(folder) or has_outlines(folder / OUTLINES):
            raise ConfigError(
                f"{folder} holds text files of outlines or boxes (YOLO), which do not name their classes.",
                "Name the YAML that does: c2s data convert FILE.yaml --out FOLDER",
            )
        raise ConfigError(
            f"{folder} has neither .mat files nor a {' or '.join(PALETTES)} beside masks in colour.",
            "Masks of class numbers need no converting: c2s data init FOLDER. Of another export name the file of "
            "annotations.",
        )
    if palette is not None:
        names, colours = read_palette(palette)
    names = names or _names_beside(masks)
    if not names:
        raise ConfigError(
            f"{masks} names no classes: MATLAB files hold numbers.",
            "Say the names of the values, 0 first: --classes @names.txt",
        )
    photos = images or next((p for p in _existing(folder, PHOTOS) if p.is_dir()), None)
    if photos is None:
        raise ConfigError(f"there are no photos in {folder}.", "Name their folder with --images.")
    there, pairs = list_photos(photos).files, {}
    notes: tuple[str, ...] = ()
    if palette is None and (own := _folder_of_maps(masks, there)) is not None:
        left = sum(own not in file.parents for file in masks.rglob("*.mat"))
        masks, notes = own, (f"{left:,} other .mat files of {masks} are left out.",)
    for image_id, path in sorted(list_photos(masks, (ending,)).files.items()):
        if image_id not in there:
            raise DataError(
                f"{photos} has no photo {image_id} for {masks / path}.",
                "Name the folder of the masks themselves, and that of their photos with --images.",
            )
        read = (
            partial(_numbers, masks / path)
            if palette is None
            else partial(_coloured, masks / path, colours)
        )
        pairs[image_id] = Pair(photos / there[image_id], partial(_typed, read, len(names)))
    bare = len(there) - len(pairs)
    notes += (f"{bare:,} photos have no mask.",) * bool(bare)
    place = next(_existing(folder, ("ImageSets/Segmentation",)), None)
    lists = {s: place / name for s, name in split_lists(place).items()} if place else {}
    if split is not None or "train" not in lists:
        return {split or "train": Conversion(tuple(names), pairs, notes)}
    splits = {}
    for name, file in lists.items():
        listed = [entry.image_id for entry in read_list(file, lambda: there, SUFFIXES)]
        if missing := [image_id for image_id in listed if image_id not in pairs]:
            raise DataError(f"{file} names {missing[0]}, which has no mask in {masks}.")
        splits[name] = Conversion(tuple(names), {i: pairs[i] for i in sorted(listed)}, notes)
        notes = ()
    return splits


def _existing(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Of these paths below a folder, those that are there; the folder itself is called by nothing."""
    return (folder / found for name in names if (found := spelled(folder, name)) is not None)


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
    found = [v for v in _arrays(file) if v.ndim == 2 and v.dtype.kind in "buif"]
    whole = [v for v in found if v.size and v.min() >= 0 and (v == np.floor(v)).all()]
    if not whole:
        raise DataError(f"{file} holds no label map: no array [H, W] of whole numbers.")
    largest: NDArray[np.integer] = max(whole, key=lambda v: v.size).astype(np.int64)
    return largest


def _folder_of_maps(masks: Path, photos: Mapping[str, str]) -> Path | None:
    """The only folder below one of MATLAB files whose files are called as photos are and hold label maps; None: there
    is none, or they are in several."""
    files: dict[Path, list[Path]] = {}
    for file in sorted(masks.rglob("*.mat")):
        files.setdefault(file.parent, []).append(file)
    found = [
        folder
        for folder, own in files.items()
        if folder != masks
        and all(file.stem in photos for file in own)
        and any(values.ndim == 2 for values in _arrays(own[0]))
    ]
    return found[0] if len(found) == 1 else None


def _names_beside(masks: Path) -> tuple[str, ...]:
    """The longest list of names in a MATLAB file: of the few in the folders above, or of the first mask itself."""
    folders = [sorted(place.glob("*.mat")) for place in (masks, *masks.parents[:2])]
    few = [file for files in folders if len(files) <= FEW for file in files]
    for file in (*few, *sorted(masks.rglob("*.mat"))[:1]):
        lists = [v for v in _arrays(file) if v.ndim == 1 and all(isinstance(n, str) for n in v)]
        longest = max(lists, key=lambda names: names.size, default=np.empty(0))
        if longest.size > 1:
            return tuple(tidy(str(name), str(file)) for name in longest)
    return ()


def _arrays(file: Path) -> Iterator[NDArray[Any]]:
    """The arrays of a MATLAB file, and those in structs of it."""
    from c2s_pipeline.extras import require

    loadmat = require("scipy.io", "convert").loadmat
    try:
        content = loadmat(str(file), simplify_cells=True)
    except Exception as error:  # damaged files end in many ways, some of them of scipy's own
        raise DataError(f"{file} is damaged or no MATLAB file ({error}).") from error
    waiting = [v for k, v in content.items() if not k.startswith("__")]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, np.ndarray):
            yield value
