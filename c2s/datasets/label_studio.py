"""Invariant: Label Studio's own JSON becomes what was brushed and outlined; what else was drawn is counted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from c2s.class_list import tidy
from c2s.datasets.convert import (
    Conversion,
    Pair,
    Region,
    blank,
    find_photo,
    painted,
    photo_folder,
    photo_id,
    polygons_mask,
    require_photo,
    smaller_last,
)
from c2s.datasets.photos import SUFFIXES
from c2s_cache import DataError
from c2s_cache.label_map import LabelMap
from c2s_cache.picture import decode_image

LABELS = ("brushlabels", "polygonlabels", "labels")
UPLOADED = re.compile(r"^[0-9a-f]{8}-")
"""What Label Studio puts before the name of a photo that was uploaded."""


def read_label_studio(
    file: Path,
    tasks: Sequence[Any],
    images: Path | None,
    names: Sequence[str],
    background: str | None,
) -> Conversion:
    """The tasks of the exports JSON and JSON-MIN: brushed regions and outlines.

    Where they overlap the smaller one lies on top. A pixel without any is ignored, or of the class `background`.
    Of several annotations of a photo the last that was not cancelled counts.

    Args:
        file: the JSON file.
        tasks: what it holds.
        images: folder of the photos; default: looked for beside the file.
        names: class names in order; default: those of the regions, sorted.
        background: name of a class, the last.

    Raises:
        DataError: it is something else, a region cannot be read or has another label, or a photo is missing.
        ConfigError: the photos are not found.
    """
    photos, drawn, several, others = [], [], 0, 0
    try:
        for task in tasks:
            photos.append(_photo(task, file))
            kept = [a for a in task.get("annotations", ()) if not a.get("was_cancelled")]
            several += len(kept) > 1
            results = list(_results(task, kept))
            drawn.append([value for value in results if "rle" in value or "points" in value])
            others += sum("x" in value for value in results)
        found = {label for values in drawn for v in values if (label := _label(v, file))}
        listed = tuple(names) or tuple(sorted(found))
        if strange := sorted(found - {*listed}):
            raise DataError(f"{file} has regions of {strange[0]!r}, which --classes does not name.")
    except (AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{file} is no export of Label Studio: {error!r}.") from error
    classes = (*listed, *filter(None, [background]))
    if not classes:
        raise DataError(f"{file} has no region: nothing was brushed or outlined.")
    folder = images or photo_folder(file, [photos[0], _without_upload(photos[0])])
    ids = {name: i for i, name in enumerate(listed)}
    fill = len(classes) - 1 if background else None
    pairs = {}
    for name, values in zip(photos, drawn, strict=True):
        path = find_photo(folder, name) or require_photo(folder, _without_upload(name))
        draw = partial(_draw, file, folder / path, values, ids, len(classes), fill)
        pairs[photo_id(path)] = Pair(folder / path, draw)
    if len(pairs) != len(photos):
        raise DataError(f"{file} has {len(photos) - len(pairs)} photos twice, by their names.")
    unnamed = sum(not _label(v, file) for values in drawn for v in values)
    bare = sum(not values for values in drawn)
    notes = (
        (several, "photos have several annotations; the last of each counts."),
        (others, "boxes, ellipses or points outline no area, and are left out."),
        (unnamed, "regions have no label, and are left out."),
        (bare, "photos have no annotation."),
    )
    return Conversion(classes, pairs, tuple(f"{n:,} {said}" for n, said in notes if n))


def _photo(task: Mapping[str, Any], file: Path) -> str:
    """Path of the photo of a task, from the first of its data that ends as photos do."""
    for value in task.get("data", task).values():
        if isinstance(value, str):
            path, _, query = unquote(value).partition("?")
            path = query.removeprefix("d=") if query.startswith("d=") else path
            if path.lower().endswith(SUFFIXES):
                return path
    raise DataError(f"{file} has a task without a photo: {task.get('id')}.")


def _without_upload(name: str) -> str:
    return UPLOADED.sub("", name.rpartition("/")[2])


def _results(task: Mapping[str, Any], kept: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """What was drawn, each with the size of the image; JSON-MIN has it without the annotation around it."""
    if "annotations" in task:
        results = kept[-1]["result"] if kept else []
    else:
        results = [r for v in task.values() if isinstance(v, list) for r in v]
    for result in results:
        if isinstance(result, dict):
            value = result.get("value", result)
            yield {**result, **value} if isinstance(value, dict) else result


def _label(value: Mapping[str, Any], file: Path) -> str:
    """The first label of a region; empty if it has none."""
    given = next((value[key] for key in LABELS if value.get(key)), [""])
    return tidy(str(given[0]), str(file))


def _draw(
    file: Path,
    photo: Path,
    values: Sequence[Mapping[str, Any]],
    ids: Mapping[str, int],
    classes: int,
    fill: int | None,
) -> LabelMap:
    regions: list[Region] = []
    size = None
    for value in values:
        try:
            size = int(value["original_height"]), int(value["original_width"])
            if value.get("image_rotation"):
                raise ValueError("the image was turned in Label Studio")
            label = _label(value, file)
            if label:
                regions.append((_mask(value, *size), ids[label]))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DataError(
                f"{file}: a region of {photo.name} cannot be read ({error})."
            ) from error
    height, width = size or decode_image(photo.read_bytes()).shape[:2]
    return painted(blank(height, width, classes), smaller_last(regions), fill)


def _mask(value: Mapping[str, Any], height: int, width: int) -> NDArray[np.bool_]:
    """Mask [H, W] of an outline in per cent of the sides, or of the packed pixels of a brush, half opaque or more."""
    if "points" in value:
        corners = np.array(value["points"], float) * (width / 100, height / 100)
        return polygons_mask([corners.reshape(-1).tolist()], height, width)
    pixels = unpacked(bytes(value["rle"]), height * width * 4)
    alpha: NDArray[np.bool_] = pixels.reshape(height, width, 4)[..., 3] >= 128
    return alpha


def unpacked(data: bytes, count: int) -> NDArray[np.uint8]:
    """Numbers from bits in the form of rle-pack (https://github.com/thi-ng/umbrella), in which brushes are stored.

    32 bits say how many numbers there are, 5 the bits of one (minus 1), four times 4 the bits of a length (minus 1).
    Blocks follow: a bit that says whether they repeat one number, 2 that choose the bits of the length, the length
    (minus 1), and the number or numbers.

    Args:
        data: the bits.
        count: how many numbers are expected.

    Raises:
        ValueError: there are more or fewer, they end early, or have more than 8 bits.
    """
    bits = "".join(f"{byte:08b}" for byte in data)
    at = 0

    def read(width: int) -> int:
        nonlocal at
        at += width
        if at > len(bits):
            raise ValueError("its bits end before its pixels do")
        return int(bits[at - width : at], 2)

    if (total := read(32)) != count:
        raise ValueError(f"{total:,} numbers, where its size says {count:,}")
    size = read(5) + 1
    lengths = [read(4) + 1 for _ in range(4)]
    if size > 8:
        raise ValueError(f"numbers of {size} bits")
    numbers = np.empty(count, np.uint8)
    done = 0
    while done < count:
        same = read(1)
        end = min(done + read(lengths[read(2)]) + 1, count)
        numbers[done:end] = read(size) if same else [read(size) for _ in range(end - done)]
        done = end
    return numbers
