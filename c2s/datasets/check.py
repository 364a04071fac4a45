"""Invariant: a split without problems can be built from and scored on, every image of it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from c2s.annotation import alike, never_seen, no_label, unnamed
from c2s.datasets.folder import FolderSplit
from c2s.datasets.label_file import LabelError, read_label_file
from c2s.datasets.split import DescribedSplit, Split
from c2s_cache import C2SError, DataError
from c2s_cache.label_map import LabelMap, ignored_id, label_type, size_mismatch
from c2s_cache.picture import opened, rgb, undecodable

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with an image or its label map.

    Attributes:
        where: id of the image, or name of a file; empty: the split.
        what: the sentence about it.
        kind: the same without what only this one has; problems of a kind are counted together.
        cure: what to do about all of the kind.
        pixels: that it concerns, where it is values.
    """

    where: str
    what: str
    kind: str
    cure: str = ""
    pixels: int = 0

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


@dataclass
class SplitReport:
    """What a check found in one split.

    Attributes:
        dataset, split: names.
        classes: names in id order.
        unseen: ids of the classes that training does not see.
        expected: images of the official split; several where releases differ, empty where unknown.
        images: listed images; None where they could not be counted.
        pixels: int64 [256 or 65536], pixels by class id; the last: ignored.
        occurs: int64 of the same shape, images by class id.
        unlisted: pixels of the value 255 (65535) that belong to no class only because nothing says otherwise.
        smallest, largest: (width, height) of the images with the fewest and the most pixels.
        problems: none means sound.
        notes: what was assumed or passed over, as sentences.
    """

    dataset: str
    split: str
    classes: tuple[str, ...]
    unseen: tuple[int, ...] = ()
    expected: tuple[int, ...] = ()
    images: int | None = 0
    pixels: NDArray[np.int64] = field(init=False)
    occurs: NDArray[np.int64] = field(init=False)
    unlisted: int = 0
    smallest: tuple[int, int] | None = None
    largest: tuple[int, int] | None = None
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        values = ignored_id(label_type(len(self.classes))) + 1
        self.pixels, self.occurs = np.zeros(values, np.int64), np.zeros(values, np.int64)

    @property
    def is_subset(self) -> bool:
        """Whether the number of images is not the official one."""
        return bool(self.expected) and self.images not in (None, *self.expected)

    @property
    def absent(self) -> list[str]:
        """Classes without a pixel."""
        return [name for name, n in zip(self.classes, self.pixels, strict=False) if n == 0]

    @property
    def kinds(self) -> list[list[Problem]]:
        """The problems, those of a kind together, the most frequent first."""
        groups: dict[str, list[Problem]] = {}
        for problem in self.problems:
            groups.setdefault(problem.kind, []).append(problem)
        return sorted(groups.values(), key=len, reverse=True)

    def as_dict(self) -> dict[str, Any]:
        """JSON form; `pixels` and `occurs` by class name."""
        counts = self.pixels.tolist()
        kinds = [
            {
                "kind": k[0].kind,
                "count": len(k),
                "pixels": sum(p.pixels for p in k),
                "cure": k[0].cure,
            }
            for k in self.kinds
        ]
        return {
            "dataset": self.dataset,
            "split": self.split,
            "images": self.images,
            "expected": list(self.expected),
            "complete": self.images is not None and not self.is_subset,
            "smallest": self.smallest,
            "largest": self.largest,
            "pixels": dict(zip(self.classes, counts, strict=False)),
            "occurs": dict(zip(self.classes, self.occurs.tolist(), strict=False)),
            "ignored_pixels": counts[-1],
            "problems": [str(problem) for problem in self.problems],
            "kinds": kinds,
            "notes": self.notes,
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
    report = SplitReport(split.name, split.split, split.classes, split.unseen, tuple(expected))
    if isinstance(split, FolderSplit):
        ids = _present(split, report)
    else:
        ids = tuple(split.ids)
        report.images = len(ids)
    if not report.images:
        nothing = "it has no image: its list is empty."
        report.problems.append(Problem("", nothing, nothing))
    if quick:
        return report
    threads = threads or min(os.cpu_count() or 1, 8)
    said: Counter[str] = Counter()
    for done, item in enumerate(in_threads(lambda i: _read(split, i), ids, threads), 1):
        report.problems += item.problems
        report.pixels += item.counts
        report.occurs += item.counts > 0
        report.unlisted += item.unlisted
        said.update(item.notes)
        if item.size is not None:
            _note_size(report, item.size)
        if progress is not None:
            progress(done, len(ids))
    report.notes += filter(
        None, (unnamed(split.classes), no_label(split.classes), alike(split.classes))
    )
    report.notes += [note.format(n=f"{n:,}") for note, n in said.most_common()]
    return report


def note_never_seen(reports: Sequence[SplitReport]) -> None:
    """Note in the first split of a data set that classes have no pixel in any of them, where 255 may be theirs."""
    ignored = sum(report.unlisted for report in reports)
    if not ignored:
        return
    first = reports[0]
    counts = dict(enumerate(np.sum([report.pixels[:-1] for report in reports], 0).tolist()))
    annotated = [i for i in range(len(first.classes)) if i not in first.unseen]
    odd = never_seen(first.classes, annotated, counts, ignored)
    first.notes[:0] = [] if odd is None else [odd]


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
    cure = (split.foreign_labels or "") if missing_labels else ""
    groups = (
        (missing_images, "the image is missing.", ""),
        (missing_labels, "the label map is missing.", cure),
        (split.without_listing, "a label map without an image.", ""),
    )
    for names, what, cure in groups:
        report.problems += [Problem(name, what, what, cure) for name in names]
    if split.passed_over is not None:
        report.notes.append(split.passed_over)
    return tuple(sorted({*ids} - {*missing_images, *missing_labels}))


ANIMATED = "{n} images have several frames or pages; the first is taken."
UNLABELLED = "{n} photos have no label map: every region of them is of no known class."
PAGES = "{n} label maps have several frames or pages; the first is taken."
ALPHA = "{n} label maps have an alpha channel, which is not looked at."
TURNED = (
    "{n} photos are turned upright by their EXIF orientation and their label maps say nothing of it: these are "
    "taken to fit the upright photo. Look at them: c2s data show NAME --out sheet.png"
)


@dataclass
class _Item:
    """What was found of one image."""

    counts: NDArray[np.int64]
    size: tuple[int, int] | None = None
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unlisted: int = 0


def _read(split: Split, image_id: str) -> _Item:
    """Problems, size and pixels by class id of one image."""
    none = ignored_id(label_type(len(split.classes)))
    item = _Item(np.zeros(none + 1, np.int64))
    orientation = 1
    try:
        with opened(split.encoded(image_id), undecodable) as picture:
            pixels, orientation = rgb(picture.image), picture.orientation
            item.notes += [ANIMATED] * picture.more
        item.size = (pixels.shape[1], pixels.shape[0])
    except C2SError as error:
        item.problems.append(Problem(image_id, error.what, _kind(error), error.hint or ""))
    if not split.labelled:
        return item
    if not split.annotated(image_id):
        item.notes.append(UNLABELLED)
        return item
    try:
        labels = _labels(split, image_id, item, orientation)
    except DataError as error:
        item.problems.append(Problem(image_id, error.what, _kind(error), error.hint or ""))
        return item
    wrong = item.size and size_mismatch(labels, item.size[1], item.size[0])
    if wrong:
        turned = labels.shape == item.size and orientation > 4
        kind = "the label map has the sides of the image swapped." if turned else OTHER_SIZE
        item.problems.append(Problem(image_id, wrong, kind, EXIF if turned else RESIZE))
    item.counts += np.bincount(labels.reshape(-1), minlength=none + 1)
    return item


OTHER_SIZE = "the label map is of another size than the image."
RESIZE = (
    "Scale the label maps to the photos without smoothing (nearest neighbour), or take the photos "
    "that they were drawn on."
)
EXIF = (
    "The photo's EXIF orientation turns it, and the label map was drawn before. Turn the label map, or remove the "
    "orientation from the photo (exiftool -n -Orientation=1 FILE)."
)


def _labels(split: Split, image_id: str, item: _Item, orientation: int) -> LabelMap:
    """Label map of an image; what its values and its file have that is worth a word goes to the item."""
    if not isinstance(split, DescribedSplit):
        return split.labels(image_id)
    data, encoding, where = split.label_bytes(image_id)
    file = read_label_file(data, where, encoding)
    labels, wrong = split.mapped(file, encoding, where)
    item.problems += [Problem(image_id, e.what, _kind(e), e.hint or "", n) for e, n in wrong]
    item.counts[-1] -= sum(
        n for _, n in wrong
    )  # they are of no class as they stand, but not annotated so
    item.notes += [PAGES] * file.more + [ALPHA] * file.alpha
    same_shape = orientation < 5 or labels.shape[0] == labels.shape[1]
    if orientation > 1 and file.orientation == 1 and same_shape:
        item.notes.append(TURNED)
    none = len(item.counts) - 1
    if none not in encoding.values and not split.descriptor.download:
        item.unlisted = int((file.values == none).sum())
    return labels


def _kind(error: C2SError) -> str:
    """What is wrong, without what only this file has."""
    if isinstance(error, LabelError):
        return f"the label map {error.kind}"
    return error.what.split(" (")[0]


def _note_size(report: SplitReport, size: tuple[int, int]) -> None:
    def area(other: tuple[int, int]) -> int:
        return other[0] * other[1]

    if report.smallest is None or area(size) < area(report.smallest):
        report.smallest = size
    if report.largest is None or area(size) > area(report.largest):
        report.largest = size
