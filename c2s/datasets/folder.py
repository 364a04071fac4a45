"""Invariant: every image of a folder split has a label map, known before any work starts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2s.datasets.captions_json import captions_of
from c2s.datasets.descriptor import Descriptor, LabelEncoding, SplitLayout
from c2s.datasets.foreign_labels import foreign_labels
from c2s.datasets.image_file import image_bytes
from c2s.datasets.label_file import read_label_file
from c2s.datasets.list_file import Entry, read_list, tails
from c2s.datasets.pairing import find_pair
from c2s.datasets.photos import Listing, is_hidden, list_photos, utf8, walk, without
from c2s.datasets.spelling import spelled
from c2s.datasets.split import DescribedSplit
from c2s_cache import DataError
from c2s_cache.label_map import LabelMap, ignored_id, label_type
from c2s_cache.picture import decode_image

NUMBERS = LabelEncoding("instances", ".png", {})
UNLABELLED = "To use photos without one, whose pixels are then of no known class: unlabelled: use"


class NotThere(DataError):
    """A split of which nothing is there: no folder, or no list of its images."""


class FolderSplit(DescribedSplit):
    """One split of a data set that lies in a folder as its descriptor says.

    Args:
        descriptor: the data set.
        root: its folder.
        split: split name.
    """

    def __init__(self, descriptor: Descriptor, root: Path, split: str) -> None:
        super().__init__(descriptor, split)
        self.root = root

    def __reduce__(self) -> tuple[type[FolderSplit], tuple[Descriptor, Path, str]]:
        # Workers list the folder themselves if they must; the lists never travel with a task.
        return type(self), (self.descriptor, self.root, self.split)

    @property
    def labelled(self) -> bool:
        """Whether its images have label maps; photos alone have none."""
        return bool(self._layout.labels)

    @cached_property
    def instanced(self) -> bool:
        """Whether there is a folder of maps that number its things."""
        return any(spelled(self.root, folder) is not None for folder in self._layout.instances)

    @property
    def captioned(self) -> bool:
        """Whether there is a file of captions."""
        return self._caption_file is not None

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Image ids, sorted: paths below the image folder without what follows the id.

        Raises:
            DataError: the layout is not there, or an image or a label map is missing.
        """
        listed = self.listed
        for what, missing in (("file", self.without_image), ("label map", self.without_labels)):
            if missing:
                where = self._images / (missing[0] + self.descriptor.image_suffixes[0])
                if what == "label map":
                    where = self._label_folders[0] / (
                        missing[0] + self.descriptor.encodings[-1].suffix
                    )
                foreign = self.foreign_labels if what == "label map" else None
                if what == "label map" and not self.descriptor.download and foreign is None:
                    foreign = f"{self.descriptor.remedy} {UNLABELLED}"
                raise DataError(
                    f"{len(missing)} of {len(listed)} images of {self.name}/{self.split} have no {what}; "
                    f"the first is {where}.",
                    foreign or self.descriptor.remedy,
                )
        return listed

    @cached_property
    def listed(self) -> tuple[str, ...]:
        """Ids of all images of the split, sorted, whether or not their files are there.

        Raises:
            NotThere: there is no folder of images, or no list.
            DataError: a list names an image twice, or two images have one name.
        """
        _ = self._images  # without them, lists are not what is missing
        if not self._layout.lists:
            return tuple(sorted(self.photos.files))
        for names in self._layout.lists:
            files = self._list_files(names)
            if len(files) == len(names):
                entries = [e for file in files for e in self._entries(file)]
                ids = tuple(sorted({entry.image_id for entry in entries}))
                if len(ids) != len(entries):
                    raise DataError(f"{files[0]} lists an image twice.")
                return ids
        wanted = " or ".join(" and ".join(files) for files in self._layout.lists)
        raise NotThere(
            f"{self.root} has no list of the images of {self.name}/{self.split}: expected {wanted}.",
            self.descriptor.remedy,
        )

    @cached_property
    def without_image(self) -> tuple[str, ...]:
        """Listed ids that have no image file."""
        return tuple(i for i in self.listed if i not in self.photos.files)

    @cached_property
    def without_labels(self) -> tuple[str, ...]:
        """Listed ids that have no label map, where there should be one."""
        if not self.labelled or self.descriptor.unlabelled:
            return ()
        return tuple(i for i in self.listed if self._label_path(i) is None)

    @property
    def passed_over(self) -> str | None:
        """See `Split`."""
        return self.photos.passed_over

    def annotated(self, image_id: str) -> bool:
        """See `Split`; without a label map may be photos of a data set that says `unlabelled: use`."""
        return not self.descriptor.unlabelled or self._label_path(image_id) is not None

    @property
    def foreign_labels(self) -> str | None:
        """What the folder of label maps holds in place of those that are missing; None: nothing that tells."""
        if not self.without_labels or self.descriptor.download:
            return None
        suffixes = tuple(encoding.suffix for encoding in self.descriptor.encodings)
        return foreign_labels(
            self.root,
            self._label_folders[0],
            suffixes,
            self.without_labels,
            self.without_listing,
            len(self.without_labels) == len(self.listed),
        )

    @property
    def without_listing(self) -> tuple[str, ...]:
        """Label maps that belong to no image, by name; none where lists say what belongs."""
        if self._layout.lists or not self.labelled:
            return ()
        suffixes = tuple(encoding.suffix for encoding in self.descriptor.encodings)
        known = {i + s for i in self.photos.files for s in suffixes}
        return tuple(
            sorted(utf8(n, self._label_folders[0]) for n in self._label_files if n not in known)
        )

    def identity(self, ids: Sequence[str]) -> dict[str, Any]:
        """Name, label encodings, and a digest over ids and file sizes: changes when files are added or edited."""
        hasher = hashlib.sha256()
        encodings = set()
        images = str(self._images)
        for image_id in ids:  # plain strings: ten times as fast as paths, for 118,287 images
            size = os.stat(f"{images}/{self.photos.files[image_id]}").st_size  # noqa: PTH116
            label_size = 0
            if self.labelled and (found := self._label_path(image_id)) is not None:
                label_size = os.stat(found[0]).st_size  # noqa: PTH116
                encodings.add(found[1].name)
            things = f" {self.instance_file(image_id).stat().st_size}" if self.instanced else ""
            hasher.update(f"{image_id} {size} {label_size}{things}\n".encode())
        file = self._caption_file
        return {
            "dataset": self.name,
            "split": self.split,
            "labels": ", ".join(sorted(encodings)),
            "files": hasher.hexdigest(),
            **({} if file is None else {"captions": file.stat().st_size}),
        }

    def encoded(self, image_id: str) -> bytes:
        """Encoded image bytes. Raises `UnreadableImage` if the file cannot be read."""
        return image_bytes(self.image_file(image_id))

    def labels(self, image_id: str) -> LabelMap:
        """See `DescribedSplit`; of a photo without a label map every pixel is ignored."""
        if self.annotated(image_id):
            return super().labels(image_id)
        none = label_type(len(self.classes))
        size = decode_image(self.encoded(image_id)).shape[:2]
        return np.full(size, ignored_id(none), none)

    def instances(self, image_id: str) -> NDArray[np.integer]:
        """See `Split.instances`."""
        if not self.instanced:
            return super().instances(image_id)
        file = self.instance_file(image_id)
        return read_label_file(file.read_bytes(), str(file), NUMBERS).values

    def captions(self, image_id: str) -> tuple[str, ...]:
        """See `Split.captions`."""
        file = self._caption_file
        return super().captions(image_id) if file is None else captions_of(file).get(image_id, ())

    def instance_file(self, image_id: str) -> Path:
        """The map that numbers the things of an image.

        Raises:
            DataError: there is none.
        """
        folders = self._layout.instances
        places = [self.root / (spelled(self.root, folder) or folder) for folder in folders]
        files = [place / f"{image_id}{NUMBERS.suffix}" for place in places]
        found = next((file for file in files if file.is_file()), None)
        if found is None:
            raise DataError(f"there is no instance map {files[0]}.", self.descriptor.remedy)
        return found

    def label_bytes(self, image_id: str) -> tuple[bytes, LabelEncoding, str]:
        """See `DescribedSplit`."""
        file, encoding = self.label_file(image_id)
        try:
            return file.read_bytes(), encoding, str(file)
        except OSError as error:
            raise DataError(f"{file} cannot be read ({error.strerror}).") from error

    def image_file(self, image_id: str) -> Path:
        """The file of an image."""
        # By rule where possible: a worker that reads a few ids need not list the whole folder.
        file = self._images / f"{image_id}{self.descriptor.image_suffixes[0]}"
        return file if file.is_file() else self._images / self.photos.files.get(image_id, file.name)

    def label_file(self, image_id: str) -> tuple[Path, LabelEncoding]:
        """The label map of an image, and the encoding it has.

        Raises:
            DataError: there is none.
        """
        if not self.labelled:
            raise DataError(
                f"{self.root} holds photos alone: {image_id} has no label map.",
                f"Name a data set with label maps, or write a classes.yaml into {self.root}.",
            )
        for encoding in self.descriptor.encodings if not self._paired else ():
            for folder in self._label_folders:
                file = folder / f"{image_id}{encoding.suffix}"
                if file.is_file():
                    return file, encoding
        if (listed := self._label_path(image_id)) is not None:
            return Path(listed[0]), listed[1]  # a pair, .PNG, or decomposed letters
        expected = " or ".join(
            f"{image_id}{encoding.suffix}" for encoding in self.descriptor.encodings
        )
        raise DataError(f"{self._label_folders[0]} holds no label map {expected}.")

    def _label_path(self, image_id: str) -> tuple[str, LabelEncoding] | None:
        """As `label_file`, from what lies in the folders."""
        if (paired := self._paired.get(image_id)) is not None:
            return paired, self.descriptor.encodings[0]
        for encoding in self.descriptor.encodings:
            if (path := self._label_files.get(f"{image_id}{encoding.suffix}")) is not None:
                return path, encoding
        return None

    def _list_files(self, names: Sequence[str]) -> list[Path]:
        """Those of the lists that are there."""
        found = (spelled(self.root, name) for name in names)
        return [self.root / name for name in found if name is not None]

    def _entries(self, file: Path) -> list[Entry]:
        return read_list(file, lambda: self.photos.files, self.descriptor.image_suffixes)

    @cached_property
    def _paired(self) -> dict[str, str]:
        """Label maps by image id, where a list of one's own names them beside the images.

        Raises:
            DataError: one is not there.
        """
        lists = () if self.descriptor.download else self._layout.lists
        files = [file for names in lists for file in self._list_files(names)]
        entries = [e for file in files for e in self._entries(file) if e.label]
        places = (*self._label_folders, self.root) if entries else ()
        found = {}
        for image_id, label in entries:
            candidates = (f"{place}/{tail}" for tail in tails(label or "") for place in places)
            path = next((c for c in candidates if os.path.isfile(c)), None)  # noqa: PTH113
            if path is None:
                raise DataError(
                    f"{files[0]} names the label map {label} of {image_id}, which is not there.",
                    self.descriptor.remedy,
                )
            found[image_id] = path
        return found

    @cached_property
    def _caption_file(self) -> Path | None:
        found = (spelled(self.root, name) for name in self._layout.captions)
        return next((self.root / name for name in found if name is not None), None)

    @cached_property
    def _layout(self) -> SplitLayout:
        layout = self.descriptor.layout(self.split)
        assert isinstance(layout, SplitLayout)
        return layout

    @cached_property
    def _images(self) -> Path:
        return self._existing("images", self._layout.images)[0]

    @cached_property
    def _label_folders(self) -> tuple[Path, ...]:
        return self._existing("label maps", self._layout.labels)

    def _existing(self, what: str, candidates: tuple[str, ...]) -> tuple[Path, ...]:
        places = (spelled(self.root, candidate) for candidate in candidates)
        found = tuple(f for p in places if p is not None and (f := self.root / p).is_dir())
        if not found:
            raise NotThere(
                f"{self.root} has no {what} of {self.name}: expected the folder {' or '.join(candidates)}.",
                self._other_folders
                or f"Name the right folder with --root. {self.descriptor.remedy}",
            )
        return found

    @property
    def _other_folders(self) -> str | None:
        """What to write into classes.yaml for photos and label maps in other folders than it says; None: none are."""
        if self.descriptor.download:
            return None
        try:
            pair = find_pair(self.root)
        except DataError:
            return None
        said = "; ".join(pair.lines)
        return (
            f"Photos in {pair.images} and label maps in {pair.masks} belong together by their names. "
            f"Write into classes.yaml: {said}"
        )

    @cached_property
    def photos(self) -> Listing:
        """What lies in the folder of images.

        Raises:
            NotThere: there is none.
            DataError: see `list_photos`; or no photo is in it.
        """
        suffixes = self.descriptor.image_suffixes
        together = self.labelled and self._images in self._label_folders
        endings = tuple(encoding.suffix for encoding in self.descriptor.encodings)
        listing = list_photos(self._images, suffixes, labels=endings if together else ())
        if not listing.files:
            said = f" {listing.passed_over}" if listing.passed_over else ""
            raise DataError(
                f"{self._images} holds no images (expected {', '.join(suffixes)}).{said}"
            )
        return listing

    @cached_property
    def _label_files(self) -> dict[str, str]:
        """Every label map, by its image's id and the suffix of its encoding; the first folder that has it counts."""
        suffixes = tuple(encoding.suffix for encoding in self.descriptor.encodings)
        return {
            f"{image_id}{suffix}": f"{folder}/{path}"
            for folder in reversed(self._label_folders)
            for path in walk(folder, suffixes)
            for suffix in suffixes
            if (image_id := without(path, (suffix,))) is not None
            and not is_hidden(PurePosixPath(path).name)
        }
