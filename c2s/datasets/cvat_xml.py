"""Invariant: CVAT's own XML becomes what CVAT shows: outlines and brushed masks, those of a higher layer on top."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

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
)
from c2s.datasets.spelling import usual_split
from c2s_cache import DataError
from c2s_cache.label_map import LabelMap

AREAS = ("polygon", "mask")
OTHERS = ("box", "ellipse", "polyline", "points", "cuboid", "skeleton")
LABEL_TYPES = ("any", "polygon", "mask")


def read_cvat(
    file: Path, images: Path | None, background: str | None, split: str
) -> dict[str, Conversion]:
    """Splits of the export "CVAT for images 1.1", one for each subset.

    Regions of a higher `z_order` lie on top, of the same one those that come later. A pixel without any is
    ignored, or of the class `background`. Of labels, those count that areas may have.

    Args:
        file: annotations.xml.
        images: folder of the photos; default: looked for beside the file.
        background: name of a class, the last.
        split: what to call images of no subset.

    Raises:
        DataError: the file is damaged or something else, or a photo is missing.
        ConfigError: the photos are not found.
    """
    root = _load(file)
    listed = [label for label in root.iterfind("meta//label") if label.find("parent") is None]
    kinds = {_text(label, "name"): _text(label, "type") or "any" for label in listed}
    names = [tidy(name, str(file)) for name, kind in kinds.items() if kind in LABEL_TYPES]
    ids = {name: i for i, name in enumerate(names)}
    classes = (*names, *filter(None, [background]))
    if not classes:
        raise DataError(f"{file} lists no label of areas in its <meta>.")
    pictures = root.findall("image")
    folder = images or photo_folder(file, [_path(pictures[0])])
    by_split: dict[str, dict[str, Pair]] = {}
    unusual: Counter[str] = Counter()
    for image in pictures:
        subset = str(image.get("subset") or "default")
        name = require_photo(folder, _path(image))
        key = photo_id(_below_subset(name, subset))
        called = usual_split(subset)
        unusual[subset] += called is None and subset.lower() != "default"
        pairs = by_split.setdefault(called or split, {})
        if key in pairs:
            raise DataError(f"{file} has two images called {key}.")
        pairs[key] = Pair(folder / name, partial(_draw, file, image, ids, len(classes), background))
    notes = _notes(pictures) + tuple(
        f"{count:,} photos of the subset {name!r} are in the split {split}."
        for name, count in unusual.items()
        if count
    )
    return {
        name: Conversion(classes, pairs, notes * (i == 0))
        for i, (name, pairs) in enumerate(by_split.items())
    }


def _load(file: Path) -> Element:
    try:
        root = ElementTree.parse(file).getroot()
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}).") from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(f"{file} is damaged or no XML ({error}).") from error
    if root.find("track") is not None:
        raise DataError(
            f"{file} holds the tracks of a video.", "Export it once more, as CVAT for images 1.1."
        )
    if root.tag != "annotations" or root.find("image") is None:
        raise DataError(f"{file} is no export of CVAT: expected <annotations> of <image>.")
    return root


def _text(element: Element, tag: str) -> str:
    return (element.findtext(tag) or "").strip()


def _path(image: Element) -> str:
    """Where a photo may lie: in the folder of its subset, if it is in none by its name."""
    name, subset = str(image.get("name")), image.get("subset")
    return name if not subset or name.startswith(f"{subset}/") else f"{subset}/{name}"


def _below_subset(name: str, subset: str) -> str:
    """A photo's path without the folder that only says its subset."""
    first, _, rest = name.partition("/")
    return rest if rest and first == subset else name


def _notes(pictures: list[Element]) -> tuple[str, ...]:
    """Sentences on what is left out."""
    shapes = Counter(shape.tag for image in pictures for shape in image)
    others = [f"{shapes[kind]:,} {kind}" for kind in OTHERS if shapes[kind]]
    bare = sum(not any(shape.tag in AREAS for shape in image) for image in pictures)
    notes = [f"left out, since they outline no area: {', '.join(others)}."] * bool(others)
    return (*notes, *[f"{bare:,} photos have no annotation."] * bool(bare))


def _draw(
    file: Path, image: Element, ids: dict[str, int], classes: int, background: str | None
) -> LabelMap:
    where = f"{file}: {image.get('name')}"
    shapes = [shape for shape in image if shape.tag in AREAS]
    try:
        height, width = int(image.attrib["height"]), int(image.attrib["width"])
        shapes.sort(key=lambda shape: int(shape.get("z_order", 0)))
        regions = [(_mask(shape, height, width), ids[_label(shape, file)]) for shape in shapes]
    except KeyError as error:
        raise DataError(
            f"{where} has a region without {error}, or of a label that is not listed."
        ) from error
    except ValueError as error:
        raise DataError(f"{where} has a region that cannot be read ({error}).") from error
    return painted(
        blank(height, width, classes), regions, classes - 1 if background is not None else None
    )


def _label(shape: Element, file: Path) -> str:
    return tidy(shape.attrib["label"], str(file))


def _mask(shape: Element, height: int, width: int) -> NDArray[np.bool_]:
    """Mask [H, W] of an outline `x,y;x,y;...`, or of run lengths of 0 and 1 in turn, row by row of its box."""
    if shape.tag == "polygon":
        corners = [
            float(v) for point in shape.attrib["points"].split(";") for v in point.split(",")
        ]
        return polygons_mask([corners], height, width)
    left, top, inner_width, inner_height = (
        int(float(shape.attrib[key])) for key in ("left", "top", "width", "height")
    )
    lengths = [int(v) for v in shape.attrib["rle"].split(",")]
    if sum(lengths) != inner_width * inner_height or min(lengths) < 0:
        raise ValueError(f"its run lengths do not fill {inner_width} x {inner_height} pixels")
    if min(left, top) < 0 or left + inner_width > width or top + inner_height > height:
        raise ValueError("it reaches out of the image")
    inside = np.zeros((height, width), np.bool_)
    runs = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    inside[top : top + inner_height, left : left + inner_width] = runs.reshape(inner_height, -1)
    return inside
