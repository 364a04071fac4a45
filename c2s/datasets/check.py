"""Invariant: a split without problems can be built from and scored on, every image of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from c2s.datasets.folder import FolderSplit
from c2s.datasets.split import Split
from c2s_cache import C2SError, DataError
from c2s_cache.label_map import ignored_id, label_type, size_mismatch
from c2s_cache.views import decode_image

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class SplitReport:
    """What a check found in one split.

    Attributes:
        dataset, split: names.
        classes: names in id order.
        expected: images of the official split; several where releases differ, empty where unknown.
        images: listed images.
        pixels: int64 [256 or 65536], pixels by class id; the last: ignored.
        smallest, largest: (width, height) of the images with the fewest and the most pixels.
        problems: sentences; none means sound.
    """

    dataset: str
    split: str
    classes: tuple[str, ...]
    expected: tuple[int, ...] = ()
    images: int = 0
    pixels: NDArray[np.int64] = field(init=False)
    smallest: tuple[int, int] | None = None
    largest: tuple[int, int] | None = None
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pixels = np.zeros(ignored_id(label_type(len(self.classes))) + 1, np.int64)

    @property
    def is_subset(self) -> bool:
        """Whether the number of images is not the official one."""
        return bool(self.expected) and self.images not in self.expected

    @property
    def absent(self) -> list[str]:
        """Classes without a pixel."""
        return [name for name, n in zip(self.classes, self.pixels, strict=False) if n == 0]

    def as_dict(self) -> dict[str, Any]:
        """JSON form; `pixels` by class name."""
        counts = self.pixels.tolist()
        return {
            "dataset": self.dataset,
            "split": self.split,
            "images": self.images,
            "expected": list(self.expected),
            "complete": not self.is_subset,
            "smallest": self.smallest,
            "largest": self.largest,
            "pixels": dict(zip(self.classes, counts, strict=False)),
            "ignored_pixels": counts[-1],
            "problems": self.problems,
        }


def check_split(
    split: Split,
    expected: Sequence[int] = (),
    progress: Callable[[int, int], None] | None = None,
    threads: int | None = None,
    quick: bool = False,
) -> SplitReport:
    """Look for every file of a split, and read every image and label map.

    Args:
        split: the split.
        expected: images of the official split.
        progress: called with (images done, images) as they are read.
        threads: that read at a time; default: one per processor, 8 at most.
        quick: only whether all files are there; nothing is read.

    Raises:
        NotThere: nothing of the split is there.
    """
    report = SplitReport(split.name, split.split, split.classes, tuple(expected))
    if isinstance(split, FolderSplit):
        ids = _present(split, report)
    else:
        ids = tuple(split.ids)
        report.images = len(ids)
    if quick:
        return report
    threads = threads or min(os.cpu_count() or 1, 8)
    for done, (found, size, counts) in enumerate(
        in_threads(lambda image_id: _read(split, image_id), ids, threads), 1
    ):
        report.problems += found
        report.pixels += counts
        if size is not None:
            _note_size(report, size)
        if progress is not None:
            progress(done, len(ids))
    return report


def in_threads(function: Callable[[T], R], items: Sequence[T], threads: int) -> Iterator[R]:
    """Results in order, a few computed ahead; an exception or Ctrl-C lets only those under way finish."""
    ahead = 16 * threads
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(items), ahead):
            yield from pool.map(
                function, items[start : start + ahead]
            )  # cancels the rest on its way out


def _present(split: FolderSplit, report: SplitReport) -> tuple[str, ...]:
    """Ids whose files are all there; what is missing goes to the report."""
    ids, missing_images, missing_labels = split.listed, split.without_image, split.without_labels
    report.images = len(ids)
    report.problems += [f"{i}: the image is missing." for i in missing_images]
    report.problems += [f"{i}: the label map is missing." for i in missing_labels]
    report.problems += [f"{name}: a label map without an image." for name in split.without_listing]
    return tuple(sorted({*ids} - {*missing_images, *missing_labels}))


def _read(
    split: Split, image_id: str
) -> tuple[list[str], tuple[int, int] | None, NDArray[np.int64]]:
    """Problems, (width, height) and pixels by class id of one image."""
    problems: list[str] = []
    size = None
    counts = np.zeros(ignored_id(label_type(len(split.classes))) + 1, np.int64)
    try:
        image = decode_image(split.encoded(image_id))
        size = (image.shape[1], image.shape[0])
    except C2SError as error:
        problems.append(f"{image_id}: {error.what}")
    try:
        labels = split.labels(image_id)
    except DataError as error:
        problems.append(f"{image_id}: {error.what}")
        return problems, size, counts
    wrong = size and size_mismatch(labels, size[1], size[0])
    if wrong:
        problems.append(f"{image_id}: {wrong}")
    return problems, size, np.bincount(labels.reshape(-1), minlength=len(counts))


def _note_size(report: SplitReport, size: tuple[int, int]) -> None:
    def area(other: tuple[int, int]) -> int:
        return other[0] * other[1]

    if report.smallest is None or area(size) < area(report.smallest):
        report.smallest = size
    if report.largest is None or area(size) > area(report.largest):
        report.largest = size
