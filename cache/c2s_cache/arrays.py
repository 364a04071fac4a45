"""Invariant: arrays are decoded from files that were proven, and a missing file is never zeros."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from numpy.typing import NDArray
from zarr.core.metadata import ArrayV3Metadata

from c2s_cache.decode import Encoded, from_disk, from_memory, in_memory, metadata_of, zarrs_works
from c2s_cache.errors import CacheError
from c2s_cache.folder import Folder
from c2s_cache.proof import Proof
from c2s_cache.receipt import FileRecord

ATTEMPTS = 5
"""Times that a block is read because the file system says of a file that it changed meanwhile: a hard link to it
(`c2s cache derive`) is such a change."""

Opening = Callable[[str, int], Encoded]
"""Opens the array at a path that has so many files in what is to be read."""
Decoding = Callable[[Opening], dict[str, NDArray[Any]]]
"""Decodes what is wanted of the arrays that it opens, by path."""


class Arrays:
    """The arrays of a cache.

    Args:
        folder: of the cache.
        root: bytes of its root group's `zarr.json`.
    """

    def __init__(self, folder: Folder, root: bytes) -> None:
        self.folder, self._root = folder, root
        self.proof = Proof(folder)
        self._on_disk: dict[str, Encoded] = {}

    @cached_property
    def metadata(self) -> dict[str, ArrayV3Metadata]:
        """Zarr's metadata of every array, by path.

        Raises:
            CacheError: the root `zarr.json` describes no arrays.
        """
        try:
            return metadata_of(self._root)
        except Exception as error:  # of any kind: Zarr parses what it finds
            raise CacheError(
                f"{self.folder}/zarr.json does not describe the arrays of a cache: {error}.",
                f"See what is damaged with: c2s cache verify {self.folder} --quick",
            ) from error

    def decode(
        self, records: Mapping[str, FileRecord], what: str, decoding: Decoding, fast: bool
    ) -> dict[str, NDArray[Any]]:
        """Decode arrays.

        Args:
            records: all files that they have in what is to be read.
            what: is to be read, for messages.
            decoding: how.
            fast: with zarrs, where it works: on a disk, and not after a fork.

        Raises:
            DamagedError: a file is missing, differs from its record or changes meanwhile.
            CacheError: the folder cannot be reached, or an array cannot be decoded.
        """
        with self._one_sentence(what):
            if not fast or self.folder.local is None or not zarrs_works():
                store = in_memory(self.proof.fetch(records, what))
                return decoding(lambda path, _: from_memory(self.metadata[path], path, store))
            named = Counter(name.partition("/c/")[0] for name in records)

            def opened(path: str, files: int) -> Encoded:
                # zarrs would take whatever lies where a file may lie.
                whole = named[path] == files
                return self._by_zarrs(path) if whole else self._fetched(path, records, what)

            for _ in range(ATTEMPTS):
                before = self.proof.check(records, what)
                arrays = decoding(opened)
                if self.proof.stamps(records, what) == before:
                    return arrays
        raise self.proof.damaged(f"{what} cannot be read: its files change meanwhile.")

    def _by_zarrs(self, path: str) -> Encoded:
        if path not in self._on_disk:
            assert self.folder.local is not None
            self._on_disk[path] = from_disk(self.metadata[path], path, self.folder.local)
        return self._on_disk[path]

    def _fetched(self, path: str, records: Mapping[str, FileRecord], what: str) -> Encoded:
        own = {name: r for name, r in records.items() if name.startswith(f"{path}/c/")}
        store = in_memory(self.proof.fetch(own, what))
        return from_memory(self.metadata[path], path, store)

    @contextmanager
    def _one_sentence(self, what: str) -> Iterator[None]:
        try:
            yield
        except (ValueError, RuntimeError, OSError, LookupError, TypeError) as error:
            raise self.proof.damaged(f"{what} cannot be read: {error}.") from error
