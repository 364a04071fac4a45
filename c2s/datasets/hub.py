"""Invariant: a Hugging Face data set is read as data: no code of its own runs, nothing is unpickled."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from glob import has_magic
from pathlib import Path
from typing import Any

from c2s.datasets.descriptor import Descriptor, HubLayout, LabelEncoding
from c2s.datasets.split import DescribedSplit
from c2s_cache import ConfigError, DataError, UnreadableImage
from c2s_cache.hub import hub

ON_DISK = ("dataset_dict.json", "state.json")
"""Files by which a folder that `save_to_disk` wrote is known."""


class HubSplit(DescribedSplit):
    """One split of a Hugging Face data set; an image's id is its row number.

    Args:
        descriptor: the data set, whose layout of this split is a `HubLayout`.
        split: split name.
    """

    def __init__(self, descriptor: Descriptor, split: str) -> None:
        super().__init__(descriptor, split)

    def __reduce__(self) -> tuple[type[HubSplit], tuple[Descriptor, str]]:
        return type(self), (self.descriptor, self.split)  # workers open the data set themselves

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Image ids: row numbers of eight digits.

        Raises:
            DataError: the data set cannot be read.
        """
        return tuple(f"{row:08d}" for row in range(len(self._rows)))

    def identity(self, ids: Sequence[str]) -> dict[str, Any]:
        """Name, split, and a digest over the sizes of their files: changes when rows are edited."""
        hasher = hashlib.sha256()
        rows = self._rows.select([int(image_id) for image_id in ids])
        for table in rows.with_format("arrow").iter(1000):
            columns = (table.column(c).combine_chunks() for c in self._columns)
            for sizes in zip(*(_sizes(column) for column in columns), strict=True):
                hasher.update("{} {}\n".format(*sizes).encode())
        return {
            "dataset": self.name,
            "split": self.split,
            "labels": self._layout.mask,
            "files": hasher.hexdigest(),
        }

    def encoded(self, image_id: str) -> bytes:
        """Encoded image bytes. Raises `UnreadableImage` if there are none."""
        try:
            return self._file(image_id, self._layout.image)
        except OSError as error:
            raise UnreadableImage(f"{self._where(image_id)} has no image ({error}).") from error

    def label_bytes(self, image_id: str) -> tuple[bytes, LabelEncoding, str]:
        """See `DescribedSplit`."""
        where = self._where(image_id)
        (encoding,) = self.descriptor.encodings
        try:
            return self._file(image_id, self._layout.mask), encoding, where
        except OSError as error:
            raise DataError(f"{where} has no label map ({error}).") from error

    def _where(self, image_id: str) -> str:
        return f"row {int(image_id)} of {self._layout.source}/{self._layout.split}"

    def _file(self, image_id: str, column: str) -> bytes:
        value = self._rows[int(image_id)][column]
        if value is None:
            raise FileNotFoundError("the column is empty")
        data: bytes | None = value["bytes"]
        return Path(value["path"]).read_bytes() if data is None else data

    @property
    def _columns(self) -> tuple[str, str]:
        return self._layout.image, self._layout.mask

    @cached_property
    def _layout(self) -> HubLayout:
        layout = self.descriptor.layout(self.split)
        assert isinstance(layout, HubLayout)
        return layout

    @cached_property
    def _rows(self) -> Any:
        """The rows, files as they are."""
        import datasets

        rows = _opened(self._layout.source)[self._layout.split].select_columns([*self._columns])
        for column in self._columns:
            rows = rows.cast_column(column, datasets.Image(decode=False))
        return rows


def hub_layouts(
    source: str,
    image: str | None = None,
    mask: str | None = None,
    splits: Mapping[str, str] | None = None,
) -> dict[str, HubLayout]:
    """Layouts of the splits of a Hugging Face data set.

    Args:
        source: a repository of the Hub, or a folder with its files or written by `save_to_disk`.
        image: column of images; default: "image".
        mask: column of label maps; default: the only other column of images.
        splits: names for some of its splits; the others keep their own.

    Raises:
        MissingExtra: the package `datasets` is not installed.
        DataError: it cannot be read.
        ConfigError: it has no such column or split.
    """
    opened = _opened(source)
    renamed = dict(splits or {})
    named = {name: name for name in opened if name not in renamed.values()} | renamed
    layouts = {}
    for name, own in named.items():
        if own not in opened:
            raise ConfigError(f"{source} has no split {own!r}; its splits: {', '.join(opened)}.")
        layouts[name] = HubLayout(source, own, *_image_columns(source, opened[own], image, mask))
    return layouts


def class_names(source: str, column: str) -> list[str]:
    """Class names of a ClassLabel column, or of a list of such.

    Raises:
        ConfigError: there is no such column, or it is of another kind.
    """
    features = next(iter(_opened(source).values())).features
    feature = features.get(column)
    while hasattr(feature, "feature"):
        feature = feature.feature
    if not hasattr(feature, "names"):
        known = ", ".join(features)
        raise ConfigError(f"{source} has no ClassLabel column {column!r}; its columns: {known}.")
    return list(feature.names)


def _image_columns(source: str, rows: Any, image: str | None, mask: str | None) -> tuple[str, str]:
    import datasets

    found = [c for c, kind in rows.features.items() if isinstance(kind, datasets.Image)]
    image = image or "image"
    others = [c for c in found if c != image]
    if mask is None and len(others) == 1:
        (mask,) = others
    for what, column in (("images", image), ("masks", mask)):
        if column not in found:
            asked = (
                f"no column {column!r} of images" if column else "several that may be label maps"
            )
            raise ConfigError(
                f"{source} has {asked}; its columns of images: {', '.join(found) or 'none'}.",
                f"Name the column with `{what}:`.",
            )
    assert mask is not None
    return image, mask


@lru_cache(maxsize=4)
def _opened(source: str) -> Mapping[str, Any]:
    """Its splits by name, from a folder or the Hub."""
    from c2s_pipeline.extras import require

    datasets = require("datasets", "hf")
    try:
        with hub():
            if any((Path(source) / name).is_file() for name in ON_DISK):
                found = datasets.load_from_disk(source)
            else:
                found = datasets.load_dataset(source)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        if has_magic(source) and Path(source).is_dir():
            raise DataError(
                f"the Hugging Face data set {source} cannot be read: the library takes brackets, stars and question "
                "marks of a path for a pattern.",
                "Rename the folder, or write the data set with save_to_disk.",
            ) from error
        raise DataError(
            f"the Hugging Face data set {source} cannot be read: {reason}.",
            "Name a repository of the Hub, or a folder of parquet files, of images with metadata.csv, or "
            "written by save_to_disk.",
        ) from error
    return found if isinstance(found, dict) else {str(found.split or "train"): found}


def _sizes(column: Any) -> Iterator[int]:
    """Bytes of each file of an arrow column of images."""
    import pyarrow.compute as compute

    lengths = compute.binary_length(column.field("bytes")).to_pylist()
    for length, path in zip(lengths, column.field("path").to_pylist(), strict=True):
        if length is None and path is not None:
            length = Path(path).stat().st_size if Path(path).is_file() else None
        yield -1 if length is None else length
