"""Invariant: every image of a folder split has a label map, known before any work starts."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from c2s.datasets.descriptor import Descriptor, LabelForm
from c2s.datasets.split import Split
from c2s_cache import DataError, UnreadableImage


class FolderSplit(Split):
    """One split of a data set in its official folder layout.

    Args:
        descriptor: the data set.
        root: its folder.
        split: split name.

    Raises:
        DataError: the layout is not there, or an image has no label map.
    """

    def __init__(self, descriptor: Descriptor, root: Path, split: str) -> None:
        self.descriptor, self.root, self._split = descriptor, root, split

    def __reduce__(self) -> tuple[type[FolderSplit], tuple[Descriptor, Path, str]]:
        # Workers list the folder themselves if they must; the lists never travel with a task.
        return type(self), (self.descriptor, self.root, self._split)

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

    @cached_property
    def _folders(self) -> tuple[Path, Path]:
        layout = self.descriptor.splits.get(self.split)
        if layout is None:
            raise DataError(
                f"data set {self.name} has no split {self.split!r}.",
                f"Splits: {', '.join(self.descriptor.splits)}.",
            )
        return self._first("images", layout.images), self._first("label maps", layout.labels)

    def _first(self, what: str, candidates: tuple[str, ...]) -> Path:
        for candidate in candidates:
            if (self.root / candidate).is_dir():
                return self.root / candidate
        raise DataError(
            f"{self.root} has no {what} of {self.name}: expected the folder {' or '.join(candidates)}.",
            f"Name the right folder with --root, or download {self.descriptor.download}.",
        )

    @cached_property
    def _files(self) -> dict[str, Path]:
        """Image id to image file."""
        folder, suffixes = self._folders[0], self.descriptor.image_suffixes
        found = {f.stem: f for f in sorted(folder.iterdir()) if f.suffix.lower() in suffixes}
        if not found:
            raise DataError(f"{folder} holds no images (expected {', '.join(suffixes)}).")
        return found

    @cached_property
    def _form(self) -> LabelForm:
        """The first label form whose files are there."""
        folder = self._folders[1]
        for form in self.descriptor.forms:
            if any((folder / f"{i}{form.suffix}").is_file() for i in list(self._files)[:100]):
                return form
        expected = " or ".join(f"ID{form.suffix}" for form in self.descriptor.forms)
        raise DataError(f"{folder} holds no label maps for the images (expected files {expected}).")

    @cached_property
    def _table(self) -> NDArray[np.int16]:
        return self._form.table()

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Image ids (file stems), sorted; every one has a label map.

        Raises:
            DataError: the layout is not there, or an image has no label map.
        """
        folder, suffix = self._folders[1], self._form.suffix
        labelled = {f.name for f in folder.iterdir()}
        missing = [i for i in self._files if f"{i}{suffix}" not in labelled]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(self._files)} images of {self.name}/{self.split} have no label "
                f"map; the first is {folder / (missing[0] + suffix)}.",
                f"Complete the label maps: {self.descriptor.download}.",
            )
        return tuple(self._files)

    def identity(self) -> dict[str, Any]:
        """Name, label form, and a digest over ids and file sizes: changes when files are added or edited."""
        hasher = hashlib.sha256()
        for image_id in self.ids:
            sizes = (
                self._files[image_id].stat().st_size,
                self._label_file(image_id).stat().st_size,
            )
            hasher.update(f"{image_id} {sizes[0]} {sizes[1]}\n".encode())
        return {
            "dataset": self.name,
            "split": self.split,
            "labels": self._form.name,
            "files": hasher.hexdigest(),
        }

    def encoded(self, image_id: str) -> bytes:
        """Encoded image bytes. Raises `UnreadableImage` if the file cannot be read."""
        file = self._image_file(image_id)
        try:
            return file.read_bytes()
        except OSError as error:
            raise UnreadableImage(f"{file} cannot be read ({error.strerror}).") from error

    def labels(self, image_id: str) -> NDArray[np.uint8]:
        """Label map uint8 [H, W] over all classes, 255 = ignored.

        Raises:
            DataError: the file cannot be read, is no 8-bit label map, or holds an unknown value.
        """
        file = self._label_file(image_id)
        try:
            with Image.open(file) as image:
                values = np.asarray(image)
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"label map {file} cannot be read ({error}).") from error
        if values.ndim != 2 or values.dtype != np.uint8:
            raise DataError(
                f"{file} is no label map: expected one 8-bit channel, got {values.dtype} with shape {values.shape}."
            )
        mapped = self._table[values]
        if (mapped < 0).any():
            bad = int(values[mapped < 0][0])
            raise DataError(
                f"{file} holds the label value {bad}, which is outside the {len(self.classes)} classes "
                f"of {self.name} ({self._form.name}).",
                f"Replace the label maps: {self.descriptor.download}.",
            )
        labels: NDArray[np.uint8] = mapped.astype(np.uint8)
        return labels

    def _image_file(self, image_id: str) -> Path:
        # By rule where possible: a worker that reads a few ids need not list the whole folder.
        file = self._folders[0] / f"{image_id}{self.descriptor.image_suffixes[0]}"
        return file if file.is_file() else self._files[image_id]

    def _label_file(self, image_id: str) -> Path:
        return self._folders[1] / f"{image_id}{self._form.suffix}"
