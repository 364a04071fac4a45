"""Invariant: the largest value of a label map's type belongs to no class: 255 of uint8, 65535 of uint16."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

LabelMap: TypeAlias = NDArray[Any]
"""Class ids [H, W]: uint8, 255 = ignored; or, of more than 254 classes, uint16, 65535 = ignored."""
MOST_CLASSES = (1 << 15) - 1
"""That are told apart: best classes are looked for as int16."""


def label_type(classes: int) -> np.dtype[Any]:
    """Type of the label maps of so many classes: uint8 up to 254 of them, else uint16."""
    return np.dtype(np.uint8 if classes < ignored_id(np.uint8) else np.uint16)


def ignored_id(dtype: DTypeLike) -> int:
    """The value that belongs to no class in label maps of a type: its largest."""
    return int(np.iinfo(np.dtype(dtype)).max)


def size_mismatch(labels: LabelMap, height: int, width: int) -> str | None:
    """How the size of a label map [H, W] differs from its image's, as a sentence; None: it does not."""
    if labels.shape == (height, width):
        return None
    said = f"the label map is {labels.shape[1]} x {labels.shape[0]} pixels, the image {width} x {height}"
    if labels.shape == (width, height):
        said += ": sides are swapped, so EXIF orientation may turn the photo and not its label map"
    return f"{said}."


def without(labels: LabelMap, hidden: Sequence[int]) -> LabelMap:
    """A label map whose pixels of some classes are ignored.

    Args:
        labels: uint8 or uint16 [H, W].
        hidden: ids of the classes.
    """
    none = ignored_id(labels.dtype)
    table = np.arange(none + 1, dtype=labels.dtype)
    table[list(hidden)] = none
    shown: LabelMap = table.take(labels)
    return shown
