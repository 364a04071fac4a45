"""Invariant: a data set on disk is described by data alone; no data set has code of its own for reading files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from c2s.class_list import Names
from c2s_cache import DataError
from c2s_cache.label_map import MOST_CLASSES

OUTSIDE = -1


@dataclass(frozen=True)
class LabelEncoding:
    """One way in which a data set encodes its label maps.

    `suffix` is what follows the image id in the file name; `values` maps the value in the file to the
    class id, or to None = ignored; a value that is not listed is an error, but for 255 (65535 with more
    than 254 classes), which is ignored unless it is listed.
    `colours` maps RGB to the value in the file, for label maps that are drawn in colour, whatever type of
    picture holds them; `grey_is_index`: those of one channel, with or without a palette, hold values all the same.
    `ignores_others`: values and colours that are not listed are ignored.
    """

    name: str
    suffix: str
    values: Mapping[int, int | None]
    colours: Mapping[tuple[int, int, int], int] = field(default_factory=dict, repr=False)
    grey_is_index: bool = False
    ignores_others: bool = False

    def table(self, none: int) -> NDArray[np.int32]:
        """Look-up table int32 [65536]: class id, `none` = ignored, -1 = value outside the class list."""
        table = np.full(1 << 16, none if self.ignores_others else OUTSIDE, np.int32)
        table[none] = none
        for value, class_id in self.values.items():
            table[value] = none if class_id is None else class_id
        return table


@dataclass(frozen=True)
class SplitLayout:
    """Where a split lies below the data set's folder.

    Attributes:
        images: candidate folders, searched with all folders below; the first that exists counts.
        labels: folders of label maps; an image's is taken from the first that has one for it, in the
            first encoding in which there is one.
        lists: alternatives of files that together list the image ids, one per line; the first
            alternative that is complete counts. None given: every image of the folder belongs.
        expected: images in the official split; several where releases differ, empty where unknown.
        instances: folders of maps that number the things of an image, PNG files named like it; 0: none.
        captions: files of captions in COCO's form; the first that exists counts.
    """

    images: tuple[str, ...]
    labels: tuple[str, ...]
    lists: tuple[tuple[str, ...], ...] = ()
    expected: tuple[int, ...] = ()
    instances: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class HubLayout:
    """Where a split lies in a Hugging Face data set.

    `source` repository of the Hub, or folder; `split` its own name of the split; `image`, `mask` the
    columns; `expected` as in `SplitLayout`.
    """

    source: str
    split: str
    image: str
    mask: str
    expected: tuple[int, ...] = ()


@dataclass(frozen=True)
class TestProtocol:
    """How the field trains and tests on a data set.

    Attributes:
        view_size: side in pixels of training views and of the sliding window.
        stride: step of the sliding window in pixels.
        short_side: test images are resized, proportions kept, to this short side in pixels.
        background: id of a background class that is trained and scored as a seen class. None: what
            belongs to no class is ignored in every label map, and is neither trained nor scored.
    """

    view_size: int = 512
    stride: int = 426
    short_side: int = 512
    background: int | None = None

    def at(self, size: int) -> TestProtocol:
        """The same in proportion, for windows of another side in pixels."""
        stride, short_side = (v / self.view_size * size for v in (self.stride, self.short_side))
        scaled = {"stride": max(1, round(stride)), "short_side": round(short_side)}
        return replace(self, view_size=size, **scaled)


@dataclass(frozen=True)
class Descriptor:
    """A data set: names, classes, the field's zero-shot split, layout, and where to get it.

    Attributes:
        name: as typed by users.
        short: names its cache.
        folder: its official folder.
        classes: names in id order, as the field writes them.
        prompts: the same names as a sentence wants them ("pottedplant" -> "potted plant").
        names: of every class all names that it may be asked by; default: its prompt.
        unseen: ids of the classes whose annotations training must never see.
        splits: layout by split name.
        encodings: of the label maps, in order of preference.
        download: which official archives to get, and where; empty for a user's own data.
        image_suffixes: what follows the image id in the name of an image file.
        protocol: the field's.
        unlabelled: images of labelled splits may lack a label map.
        clips: the folders of images are clips, with their frames in order.

    Raises:
        DataError: a class name occurs twice, or there are more than 32,767.
    """

    name: str
    short: str
    folder: str
    classes: tuple[str, ...]
    unseen: tuple[int, ...]
    splits: Mapping[str, SplitLayout | HubLayout]
    encodings: tuple[LabelEncoding, ...]
    download: str
    prompts: tuple[str, ...] = ()
    names: Names = ()
    image_suffixes: tuple[str, ...] = (".jpg", ".jpeg", ".png")
    protocol: TestProtocol = TestProtocol()
    unlabelled: bool = False
    clips: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", self.prompts or self.classes)
        object.__setattr__(self, "names", self.names or tuple((p,) for p in self.prompts))
        if len(self.classes) > MOST_CLASSES:
            raise DataError(
                f"{self.name} has {len(self.classes):,} classes; at most {MOST_CLASSES:,} are possible."
            )
        for what in ("prompts", "names"):
            if len(found := getattr(self, what)) != len(self.classes):
                raise DataError(
                    f"{self.name} has {len(found)} {what} of {len(self.classes)} classes."
                )
        seen: set[str] = set()
        for class_name in self.classes:
            if class_name in seen:
                raise DataError(f"{self.name} has two classes called {class_name!r}.")
            seen.add(class_name)

    @property
    def remedy(self) -> str:
        """What to do about files that are missing or wrong, as a sentence."""
        if self.download:
            return f"Get {self.download}."
        return "These are your own data: mend them, or say in classes.yaml how they are."

    def layout(self, split: str) -> SplitLayout | HubLayout:
        """Layout of a split.

        Raises:
            DataError: there is no such split.
        """
        if split not in self.splits:
            raise DataError(
                f"data set {self.name} has no split {split!r}.",
                f"Splits: {', '.join(self.splits)}; name one with --split.",
            )
        return self.splits[split]


def names(text: str) -> tuple[str, ...]:
    """Split "a, b b,\\nc" into ("a", "b b", "c")."""
    return tuple(" ".join(name.split()) for name in text.split(","))


def ids_of(wanted: str, classes: tuple[str, ...]) -> tuple[int, ...]:
    """Ascending ids of the comma-separated class names in `wanted`."""
    return tuple(sorted(classes.index(name) for name in names(wanted)))


def reduced(count: int) -> dict[int, int | None]:
    """Values of label maps in which 0 belongs to no class and v > 0 is class v - 1."""
    return {0: None, **{i + 1: i for i in range(count)}}
