"""Invariant: readers reach a cache's files through this alone, whether they lie on a disk or in an object store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from c2s_cache.errors import CacheError

REQUESTS = 16
"""Files that are fetched at the same time."""


class Folder:
    """The folder of a cache, for reading.

    Args:
        address: path, or URL of a file system that fsspec knows and that lists its files with their
            sizes, such as `s3://bucket/coco.zarr`.

    Raises:
        CacheError: fsspec does not know such URLs, or lacks the package for them.

    Attributes:
        local: the path, if the folder lies on this machine.
    """

    def __init__(self, address: Path | str) -> None:
        self.address = str(address)
        self.local: Path | None = None
        if "://" not in self.address:
            self.local, self._fs, self._root = Path(address), LocalFileSystem(), self.address
            return
        try:
            self._fs, self._root = url_to_fs(self.address)
        except (ImportError, ValueError) as error:
            raise CacheError(f"{self.address} cannot be opened: {error}.") from error
        if isinstance(self._fs, LocalFileSystem):
            self.local = Path(self._root)

    def __str__(self) -> str:
        return self.address

    def read(self, name: str) -> bytes:
        """Bytes of a file, by its path below the folder.

        Raises:
            FileNotFoundError: there is none.
        """
        data: bytes = self._fs.cat_file(f"{self._root}/{name}")
        return data

    def read_all(self, names: Iterable[str]) -> dict[str, bytes]:
        """Bytes of those of the files that are there."""

        def read(name: str) -> tuple[str, bytes | None]:
            try:
                return name, self.read(name)
            except FileNotFoundError:
                return name, None

        with ThreadPoolExecutor(REQUESTS) as pool:
            return {name: data for name, data in pool.map(read, names) if data is not None}

    def sizes(self) -> dict[str, int]:
        """Size in bytes of every file, by its path below the folder."""
        found = self._fs.find(self._root, detail=True)
        root = self._fs._strip_protocol(self._root).rstrip("/")
        return {name[len(root) + 1 :]: int(facts["size"]) for name, facts in found.items()}

    def digest(self, name: str) -> str:
        """Hex SHA-256 of a file, read in pieces.

        Raises:
            FileNotFoundError: there is none.
        """
        with self._fs.open(f"{self._root}/{name}", "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
