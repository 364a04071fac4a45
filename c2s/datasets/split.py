"""Invariant: a split is a sequence of items for evaluation and an image source for the pipeline."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from c2s.datasets.descriptor import Descriptor, LabelEncoding
from c2s_cache import DataError
from c2s_cache.label_map import LabelMap, ignored_id, label_type, size_mismatch
from c2s_cache.views import decode_image


@dataclass(frozen=True)
class LabelledImage:
    """One labelled image of a split."""

    id: str
    split: Split

    def read(self) -> tuple[NDArray[np.uint8], LabelMap]:
        """Image uint8 [H, W, 3] and label map [H, W] over all classes.

        Raises:
            UnreadableImage: the image cannot be decoded.
            DataError: the label map is missing, malformed, or of another size than the image.
        """
        image, labels = decode_image(self.split.encoded(self.id)), self.split.labels(self.id)
        wrong = size_mismatch(labels, *image.shape[:2])
        if wrong is not None:
            raise DataError(f"{self.id}: {wrong}")
        return image, labels


class Split(Sequence[LabelledImage]):
    """A labelled split of a data set, and an `ImageSource`; subclasses say which images there are."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Data set name, as typed by users."""

    @property
    @abstractmethod
    def split(self) -> str:
        """Split name."""

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """All class names, seen and unseen, in id order."""

    @property
    @abstractmethod
    def unseen(self) -> tuple[int, ...]:
        """Ids of the unseen classes."""

    @property
    @abstractmethod
    def ids(self) -> tuple[str, ...]:
        """Image ids, sorted."""

    @property
    def labelled(self) -> bool:
        """Whether its images have label maps."""
        return True

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """JSON-like facts that change whenever the content of the split does."""

    @abstractmethod
    def encoded(self, image_id: str) -> bytes:
        """Encoded image bytes."""

    @abstractmethod
    def labels(self, image_id: str) -> LabelMap:
        """Label map [H, W] over all classes, of the type that `label_type` gives so many."""

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> LabelledImage: ...

    @overload
    def __getitem__(self, index: slice) -> list[LabelledImage]: ...

    def __getitem__(self, index: int | slice) -> LabelledImage | list[LabelledImage]:
        if isinstance(index, slice):
            return [LabelledImage(i, self) for i in self.ids[index]]
        return LabelledImage(self.ids[index], self)

    def __iter__(self) -> Iterator[LabelledImage]:
        return (LabelledImage(i, self) for i in self.ids)


class DescribedSplit(Split):
    """A split of a data set that a descriptor describes; subclasses say where its files come from.

    Args:
        descriptor: the data set.
        split: split name.
    """

    def __init__(self, descriptor: Descriptor, split: str) -> None:
        self.descriptor, self._split = descriptor, split

    @property
    def name(self) -> str:
        """Data set name."""
        return self.descriptor.name

    @property
    def split(self) -> str:
        """Split name."""
        return self._split

    @property
    def classes(self) -> tuple[str, ...]:
        """All class names in id order."""
        return self.descriptor.classes

    @property
    def unseen(self) -> tuple[int, ...]:
        """Ids of the unseen classes."""
        return self.descriptor.unseen

    def mapped(self, values: NDArray[np.integer], encoding: LabelEncoding, where: str) -> LabelMap:
        """Class ids [H, W] of the values of a label map [H, W].

        Args:
            values: as the file has them.
            encoding: of the label map.
            where: what to call it in messages.

        Raises:
            DataError: a value is outside the class list.
        """
        mapped = self._tables[encoding.name].take(values)
        if (mapped < 0).any():
            bad = int(values[mapped < 0][0])
            raise DataError(
                f"{where} holds the label value {bad}, which is outside the {len(self.classes)} classes "
                f"of {self.name} ({encoding.name}).",
                f"Replace the label maps. {self.descriptor.remedy}",
            )
        labels: LabelMap = mapped.astype(label_type(len(self.classes)))
        return labels

    @cached_property
    def _tables(self) -> dict[str, NDArray[np.int32]]:
        none = ignored_id(label_type(len(self.classes)))
        return {encoding.name: encoding.table(none) for encoding in self.descriptor.encodings}
