"""Invariant: the pipeline sees a data set only through these protocols, whatever its layout on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class SplitInfo(Protocol):
    """What a manifest says of one split of a data set."""

    @property
    def name(self) -> str:
        """Data set name, as typed by users."""

    @property
    def split(self) -> str:
        """Split name, such as "train"."""

    @property
    def classes(self) -> tuple[str, ...]:
        """All class names, seen and unseen, in id order."""

    @property
    def prompts(self) -> tuple[str, ...]:
        """The same names as a sentence wants them."""

    @property
    def unseen(self) -> tuple[int, ...]:
        """Ids of the classes whose annotations training must never see."""

    @property
    def labelled(self) -> bool:
        """Whether its images have label maps."""

    @property
    def instanced(self) -> bool:
        """Whether it tells things of one class apart."""

    @property
    def synonyms(self) -> Mapping[str, tuple[str, ...]]:
        """Words that stand for classes beside their names, by class name."""

    @property
    def captioned(self) -> bool:
        """Whether its images have captions."""

    @property
    def clips(self) -> bool:
        """Whether its images are frames of clips."""

    @property
    def nouns(self) -> tuple[str, ...]:
        """Words that its captions are to be searched for, beside those of its classes."""


class ImageSource(SplitInfo, Protocol):
    """One split of a labelled data set. Implementations are small, picklable and open files lazily."""

    @property
    def ids(self) -> Sequence[str]:
        """Image ids, sorted."""

    def identity(self, ids: Sequence[str]) -> dict[str, Any]:
        """JSON-like facts that change whenever the files of one of these images do."""

    def encoded(self, image_id: str) -> bytes:
        """Encoded image bytes. Raises `UnreadableImage` if the file cannot be read."""

    def labels(self, image_id: str) -> NDArray[np.uint8]:
        """Label map uint8 [H, W] over all classes, 255 = not annotated. Raises `DataError`."""

    def instances(self, image_id: str) -> NDArray[np.integer]:
        """Number of the thing at every pixel [H, W], 0 = none, where the split is `instanced`: in a clip the same in
        all frames. Raises `DataError`."""

    def clip(self, image_id: str) -> str | None:
        """The clip of which an image is a frame, where the split has `clips`; the frames of one follow each other."""

    def captions(self, image_id: str) -> tuple[str, ...]:
        """Sentences about an image, where the split is `captioned`. Raises `DataError`."""
