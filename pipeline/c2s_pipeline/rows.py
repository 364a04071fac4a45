"""Invariant: a stage that is stored is read from the cache, and only what is missing from the source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2s_cache import IGNORE, DataError, Manifest, UnreadableImage
from c2s_cache.augment import AugmentConfig, draw_view, view_rng
from c2s_cache.label_map import size_mismatch, without
from c2s_cache.schema import ragged_ranges
from c2s_cache.views import canonical_box, crop_image, decode_image
from c2s_pipeline.source import ImageSource
from c2s_pipeline.view_teacher import View

Stored = Mapping[str, NDArray[Any]]
PIXELS = frozenset({"teacher", "dense", "masks", "regions"})
"""Stages whose computation looks at the image."""


@dataclass(frozen=True)
class Row:
    """One image of a block. If `error` is set it cannot be used, and all else but `id` is empty.

    `data` encoded bytes; `labels` uint8 [H, W] without unseen classes, empty if no stage asks for them;
    `ignored` bool [H, W], pixels that the data set itself ignores, empty unless read from the source.
    """

    id: str
    data: bytes
    labels: NDArray[np.uint8]
    ignored: NDArray[np.bool_]
    views: tuple[View, ...]
    error: str | None = None

    def without_pixels(self) -> Row:
        """The same without its cut views, which are large and of no use once the teacher has seen them."""
        return replace(self, views=tuple(replace(v, native=None, dense=None) for v in self.views))


class RowReader:
    """Reads the rows of one block: from the cache what it holds, from the source what is missing.

    Args:
        manifest: the cache's manifest.
        source: the data set; None if neither images nor labels are missing.
        first_row: number of the block's first row.
        missing: stages to be computed.
        stored: arrays of the stages that are there, by path, as `Cache.read` gives them.
    """

    def __init__(
        self,
        manifest: Manifest,
        source: ImageSource | None,
        first_row: int,
        missing: Sequence[str],
        stored: Stored,
    ) -> None:
        self.manifest, self._source, self.stored = manifest, source, stored
        self.first_row = first_row
        self.missing = frozenset(missing)
        self._data = _items(stored, "images/data", "images/end")
        self._labels = _items(stored, "labels/data", "labels/end")

    @property
    def source(self) -> ImageSource:
        """The data set."""
        if self._source is None:
            raise ValueError("the missing stages need the data set")
        return self._source

    def read(self, i: int, image_id: str) -> Row:
        """Row `i` of the block; several threads may ask at once.

        Raises:
            DataError: its label map is missing, holds a value outside the class list, or has changed.
        """
        try:
            data = self._encoded(i, image_id)
            image = decode_image(data) if self.missing & (PIXELS | {"images"}) else None
            size = image.shape[:2] if image is not None else tuple(self.stored["images/size"][i])
            labels, ignored = self._label_map(i, image_id, size)
        except UnreadableImage as error:
            return Row(image_id, b"", *_no_labels(), (), error.what)
        views = self._views(i, labels)
        if image is not None and self.missing & PIXELS:
            views = tuple(self._cut(view, image) for view in views)
        return Row(image_id, data, labels, ignored, views)

    def _encoded(self, i: int, image_id: str) -> bytes:
        if "images" in self.missing:
            return self.source.encoded(image_id)
        if not self.stored["images/usable"][i]:
            raise UnreadableImage("quarantined")
        return self._data[i].tobytes() if self._data else b""

    def _label_map(
        self, i: int, image_id: str, size: tuple[int, int]
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Labels and ignored pixels of a `Row`; new images must agree with their label maps in size."""
        new = "images" in self.missing
        if not new and "labels" not in self.missing:
            blank, nothing = _no_labels()
            return self._labels[i].reshape(size) if self._labels else blank, nothing
        labels = self.source.labels(image_id)
        wrong = size_mismatch(labels, *size)
        if wrong is not None and new:
            raise UnreadableImage(wrong)
        if wrong is not None:
            raise DataError(
                f"{image_id}: {wrong} The label maps are not those the cache was built from."
            )
        return without(labels, self.manifest.unseen), labels == IGNORE

    def _views(self, i: int, labels: NDArray[np.uint8]) -> tuple[View, ...]:
        if "views" in self.missing:
            return tuple(self._draw(self.first_row + i, labels))
        if "views/box" not in self.stored:  # labels alone are missing: nothing looks at views
            return ()
        boxes, flips = self.stored["views/box"][i], self.stored["views/flip"][i]
        return tuple(View(labels, b, bool(f)) for b, f in zip(boxes, flips, strict=True))

    def _draw(self, row: int, labels: NDArray[np.uint8]) -> Iterator[View]:
        """The canonical view, or random ones that depend on seed, row and view alone."""
        policy = self.manifest.requests["views"]
        if policy["policy"] == "canonical":
            box = canonical_box(labels.shape[0], labels.shape[1], policy["size"])
            yield View(labels, np.array(box), False)
            return
        config = AugmentConfig.model_validate(policy["augment"])
        for view in range(policy["count"]):
            stream = view_rng(policy["seed"], row, view)
            drawn, flip = draw_view(labels, policy["size"], stream, config)
            yield View(labels, np.array(drawn), flip)

    def _cut(self, view: View, image: NDArray[np.uint8]) -> View:
        teacher = self.manifest.teacher
        native = crop_image(image, view.box, view.flip, teacher.image_size)
        dense = native
        if teacher.dense_size != teacher.image_size:
            dense = crop_image(image, view.box, view.flip, teacher.dense_size)
        return replace(view, native=native, dense=dense)


def _no_labels() -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    return np.zeros((0, 0), np.uint8), np.zeros((0, 0), np.bool_)


def _items(stored: Stored, path: str, end: str) -> list[NDArray[Any]]:
    """The items of a ragged column, one per row; nothing if it is not stored."""
    if path not in stored:
        return []
    return [stored[path][a:b] for a, b in ragged_ranges(stored[end])]
