"""Invariant: a split is a sequence of items for evaluation and an image source for the pipeline."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from c2s.datasets.descriptor import OUTSIDE, Descriptor, LabelEncoding
from c2s.datasets.label_file import LabelError, LabelFile, read_label_file, strangers
from c2s.datasets.word_lists import nouns_of, synonyms_of
from c2s_cache import DataError
from c2s_cache.label_map import LabelMap, ignored_id, label_type, size_mismatch
from c2s_cache.picture import decode_image


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
    def prompts(self) -> tuple[str, ...]:
        """The same names as a sentence wants them."""
        return self.classes

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

    @property
    def synonyms(self) -> Mapping[str, tuple[str, ...]]:
        """Words that stand for classes beside their names: a list that is shipped, or none."""
        return synonyms_of(self.name)

    @property
    def instanced(self) -> bool:
        """Whether it tells things of one class apart."""
        return False

    @property
    def captioned(self) -> bool:
        """Whether its images have captions."""
        return False

    @property
    def clips(self) -> bool:
        """Whether its images are frames of clips."""
        return False

    @property
    def nouns(self) -> tuple[str, ...]:
        """Words that its captions are searched for, beside those of its classes: a list that is shipped, or none."""
        return nouns_of(self.name)

    @property
    def passed_over(self) -> str | None:
        """A sentence about files beside its images that are none by their names; None if there are none."""
        return None

    def annotated(self, image_id: str) -> bool:
        """Whether an image of a split with label maps has one; of one that has none all pixels are ignored."""
        return True

    def clip(self, image_id: str) -> str | None:
        """The clip of which an image is a frame; the frames of one follow each other. None: it is of none."""
        return None

    @abstractmethod
    def identity(self, ids: Sequence[str]) -> dict[str, Any]:
        """JSON-like facts that change whenever the files of one of these images do."""

    @abstractmethod
    def encoded(self, image_id: str) -> bytes:
        """Encoded image bytes."""

    @abstractmethod
    def labels(self, image_id: str) -> LabelMap:
        """Label map [H, W] over all classes, of the type that `label_type` gives so many."""

    def instances(self, image_id: str) -> NDArray[np.integer]:
        """Number of the thing at every pixel [H, W], 0 = none: the pixels of one class and number are one thing.

        In a clip a thing has one number in all frames, and the numbers of one class say nothing of another's: those
        of seen classes are stored.

        Raises:
            DataError: the split tells no things apart.
        """
        raise DataError(f"{self.name} does not tell things of one class apart.")

    def captions(self, image_id: str) -> tuple[str, ...]:
        """Sentences about an image; none of one that has none.

        Raises:
            DataError: the split has none.
        """
        raise DataError(f"{self.name} has no captions.")

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
    def prompts(self) -> tuple[str, ...]:
        """The same names as a sentence wants them."""
        return self.descriptor.prompts

    @property
    def unseen(self) -> tuple[int, ...]:
        """Ids of the unseen classes."""
        return self.descriptor.unseen

    @property
    def clips(self) -> bool:
        """Whether the folders of images are clips."""
        return self.descriptor.clips

    def clip(self, image_id: str) -> str | None:
        """The folder of an image, where those are clips."""
        return image_id.rpartition("/")[0] if self.descriptor.clips else None

    @abstractmethod
    def label_bytes(self, image_id: str) -> tuple[bytes, LabelEncoding, str]:
        """Encoded label map of an image, the encoding it has, and what to call it in messages.

        Raises:
            DataError: there is none, or it cannot be read.
        """

    def labels(self, image_id: str) -> LabelMap:
        """Label map [H, W] over all classes: uint8, 255 = ignored, or uint16, 65535 = ignored.

        Raises:
            DataError: the file cannot be read, is no label map, or holds an unknown value.
        """
        data, encoding, where = self.label_bytes(image_id)
        labels, wrong = self.mapped(read_label_file(data, where, encoding), encoding, where)
        for error, _ in wrong:
            raise error
        return labels

    def mapped(
        self, file: LabelFile, encoding: LabelEncoding, where: str
    ) -> tuple[LabelMap, list[tuple[LabelError, int]]]:
        """Class ids [H, W] of a label map; and what is wrong with its values, and of how many pixels.

        Args:
            file: as it was read; values that are wrong become ignored.
            encoding: of the label map.
            where: what to call it in messages.
        """
        kind = label_type(len(self.classes))
        mapped = self._tables[encoding.name].take(file.values, mode="clip")
        if file.strange:
            mapped[file.values < 0] = ignored_id(kind) if encoding.ignores_others else OUTSIDE
        bad = mapped < 0
        if not bad.any():
            return mapped.astype(kind), []
        mapped[bad] = ignored_id(kind)
        wrong = strangers(file, np.unique(file.values[bad]).tolist(), where, len(self.classes))
        if self.descriptor.download:
            remedy = f"Replace the label maps. {self.descriptor.remedy}"
            wrong = [(LabelError(where, e.kind, remedy), count) for e, count in wrong]
        return mapped.astype(kind), wrong

    @cached_property
    def _tables(self) -> dict[str, NDArray[np.int32]]:
        none = ignored_id(label_type(len(self.classes)))
        return {encoding.name: encoding.table(none) for encoding in self.descriptor.encodings}
