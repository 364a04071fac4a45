"""Invariant: what a stage asks of a batch was made by a stage before it, in this run or an earlier one."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from c2s_cache import Block, Cache, ConfigError, DataError, Manifest, UnreadableImage
from c2s_pipeline.source import ImageSource

if TYPE_CHECKING:
    from c2s_pipeline.teachers.base import Teacher

T = TypeVar("T")


class Stored(Protocol):
    """What is there of some rows already."""

    def __contains__(self, path: str) -> bool:
        """Whether there are items of an array."""

    def item(self, path: str, row: int, view: int) -> NDArray[Any]:
        """Its item of a row of the cache, or of a view of that row."""


class StoredBlock:
    """What a cache holds of one block, without some of its stages. Read when it is asked for, by any thread.

    Args:
        cache: the cache.
        block: number of the block.
        missing: stages that are not to be read.
    """

    def __init__(self, cache: Cache, block: int, missing: Sequence[str] = ()) -> None:
        self._cache, self._number, self._missing = cache, block, frozenset(missing)
        start = cache.manifest.block_range(block).start
        self._arrays: dict[str, NDArray[Any]] = {}
        self._block = Block(cache.manifest, start, self._arrays)
        self._reading = threading.Lock()

    def __contains__(self, path: str) -> bool:
        owner = self._cache.manifest.owners.get(path)
        return owner is not None and owner not in self._missing

    def item(self, path: str, row: int, view: int) -> NDArray[Any]:
        """See `Stored`."""
        with self._reading:
            if path not in self._arrays:
                self._arrays.update(self._cache.read(self._number, [path]))
        return self._block.item(path, row - self._block.start, view)


class Batch:
    """Some rows of a block that are computed together, those left out that cannot be used.

    Args:
        manifest: of the cache.
        rows: their numbers in the cache.
        ids: their image ids.
        stored: what is there of them.
        source: the data set; None if nothing of it is needed.
        teacher: gives the teacher, which is loaded when it is first asked for.
        device: torch device of what is computed beside the teacher.
        settling: whether it is being decided which rows can be used.

    Attributes:
        rows, ids: of the rows that can be used so far.
        made: by path and row, the items that stages made in this run.
        lost: by row, why it cannot be used.
        passes: images that went through the teacher's tower.
        shown: bytes of these images.
        notes: by stage, what it noted; see `Stage.receipt`.
    """

    def __init__(
        self,
        manifest: Manifest,
        rows: Sequence[int],
        ids: Sequence[str],
        stored: Stored,
        source: ImageSource | None,
        teacher: Callable[[], Teacher],
        device: str = "cpu",
        settling: bool = False,
    ) -> None:
        self.manifest, self.device = manifest, device
        self.rows, self.ids = list(rows), list(ids)
        self._stored, self._source, self._teacher = stored, source, teacher
        self._settling = settling
        self.made: dict[str, dict[int, list[NDArray[Any]]]] = {}
        self._shared: dict[str, Any] = {}
        self._per_row: dict[str, dict[int, Any]] = defaultdict(dict)
        self.lost: dict[int, str] = {}
        self.notes: dict[str, list[Any]] = defaultdict(list)
        self.passes = self.shown = 0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def source(self) -> ImageSource:
        """The data set."""
        if self._source is None:
            raise ConfigError(
                "what is to be computed needs the data set itself, and a cache is derived without it.",
                "Build it: c2s cache build --dataset NAME --out PATH --update",
            )
        return self._source

    @property
    def teacher(self) -> Teacher:
        """The CLIP model."""
        return self._teacher()

    def __contains__(self, path: str) -> bool:
        return path in self.made or path in self._stored

    def items(self, path: str) -> list[NDArray[Any]]:
        """Items of an array: one per row, or per view of each row, in order."""
        if path in self.made:
            return [item for row in self.rows for item in self.made[path][row]]
        views = range(self.manifest.views if self.manifest.per_view(path) else 1)
        return [self._stored.item(path, row, view) for row in self.rows for view in views]

    def add(self, items: Mapping[str, Sequence[NDArray[Any]]]) -> None:
        """Take what a stage has made of the rows that can be used now."""
        for path, values in items.items():
            views = self.manifest.views if self.manifest.per_view(path) else 1
            if len(values) != len(self.rows) * views:
                raise ValueError(f"{path}: {len(values)} items for {len(self.rows)} rows")
            self.made[path] = {
                row: list(values[i * views : (i + 1) * views]) for i, row in enumerate(self.rows)
            }

    def each(self, make: Callable[[int], T]) -> list[T]:
        """What `make` gives for every row, by its place in the batch. A row for which it raises `UnreadableImage`
        is left out, with that reason, while it is being decided which rows can be used.

        Raises:
            DataError: it is decided already, and an image or its label map has changed since.
        """
        found, lost = [], {}
        for i, row in enumerate(self.rows):
            try:
                found.append(make(i))
            except UnreadableImage as error:
                if not self._settling:
                    raise DataError(
                        f"{self.ids[i]}: {error.what} It is not what the cache was built from."
                    ) from error
                lost[row] = error.what
        if lost:
            self.lost |= lost
            kept = [i for i, row in enumerate(self.rows) if row not in lost]
            self.rows, self.ids = [self.rows[i] for i in kept], [self.ids[i] for i in kept]
            self._shared.clear()
        return found

    def per_row(self, key: str, i: int, make: Callable[[], T]) -> T:
        """What `make` gives for the i-th row, made once; `key` says what it is."""
        values = self._per_row[key]
        if self.rows[i] not in values:
            values[self.rows[i]] = make()
        found: T = values[self.rows[i]]
        return found

    def shared(self, key: str, make: Callable[[], T]) -> T:
        """What `make` gives for the whole batch, made once for all stages; `key` says what it is."""
        if key not in self._shared:
            self._shared[key] = make()
        found: T = self._shared[key]
        return found

    def note(self, stage: str, value: Any) -> None:
        """Keep something for the receipt of a stage."""
        self.notes[stage].append(value)

    def embed_images(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Image embeddings float32 [n, D], not normalised, of images uint8 [n, T, T, 3]."""
        self._count(images)
        if not len(images):
            return np.zeros((0, self.manifest.teacher.dim), np.float32)
        size = self.manifest.teacher.batch_size
        found: NDArray[np.float32] = self.teacher.embed_images(images, size).cpu().numpy()
        return found

    def dense(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Image embeddings float32 [n, D] and dense features float32 [n, h, w, C] of images uint8 [n, S, S, 3]."""
        self._count(images)
        size = self.manifest.teacher.batch_size
        parts = [self.teacher.dense(images[i : i + size]) for i in range(0, len(images), size)]
        cls, tokens = (
            np.concatenate([p.cpu().numpy() for p in both]) for both in zip(*parts, strict=True)
        )
        return cls, tokens

    def _count(self, images: NDArray[np.uint8]) -> None:
        self.passes += len(images)
        self.shown += images.nbytes
