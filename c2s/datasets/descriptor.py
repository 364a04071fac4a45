"""Invariant: a data set on disk is described by data alone; no data set has code of its own for reading files."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from c2s_cache import IGNORE


@dataclass(frozen=True)
class LabelForm:
    """One form in which a data set ships its label maps.

    `suffix` is what follows the image id in the file name; `values` maps the value in the file to the
    class id; a value that is not listed is an error. 255 stays 255 unless listed.
    """

    name: str
    suffix: str
    values: dict[int, int]

    def table(self) -> NDArray[np.int16]:
        """Look-up table int16 [256]: class id, 255 = ignored, -1 = value outside the class list."""
        table = np.full(256, -1, np.int16)
        table[IGNORE] = IGNORE
        for value, class_id in self.values.items():
            table[value] = class_id
        return table


@dataclass(frozen=True)
class SplitLayout:
    """Where a split lies below the data set's folder; of several candidates the first that exists counts."""

    images: tuple[str, ...]
    labels: tuple[str, ...]
    expected: int


@dataclass(frozen=True)
class Descriptor:
    """A data set: names, classes, the field's zero-shot split, layout, and where to get it.

    `short` names its cache, `folder` its official folder, `unseen` are class ids.
    """

    name: str
    short: str
    folder: str
    classes: tuple[str, ...]
    unseen: tuple[int, ...]
    splits: dict[str, SplitLayout]
    forms: tuple[LabelForm, ...]
    download: str
    image_suffixes: tuple[str, ...] = (".jpg", ".jpeg", ".png")
    view_size: int = 512
    notes: str = field(default="", repr=False)
