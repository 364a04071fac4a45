"""Invariant: readers reach a cache's files through this alone, whether they lie on a disk or in an object store."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from c2s_cache.errors import C2SError, CacheError

T = TypeVar("T")
REQUESTS = 16
"""Files that are fetched at the same time."""


class Folder:
    """The folder of a cache, for reading.

    Args:
        address: path, or URL of a file system that fsspec knows and that lists its files with their
            sizes, such as `s3://bucket/coco.zarr`.

    Raises:
        CacheError: fsspec does not know such URLs, or lacks the package for them. All methods: the folder
            cannot be reached, or a file cannot be read.

    Attributes:
        local: the path, if the folder lies on this machine.
    """

    def __init__(self, address: Path | str) -> None:
        self.address = str(address)
        self.local: Path | None = None
        self._opened: tuple[int, Any, str] | None = None
        if "://" not in self.address:
            self.local = Path(address)
        elif isinstance(self._store()[0], LocalFileSystem):
            self.local = Path(self._store()[1])

    def __str__(self) -> str:
        return self.address

    def _store(self) -> tuple[Any, str]:
        """File system and root of a URL. Connections do not survive a fork: a child opens its own."""
        if self._opened is None or self._opened[0] != os.getpid():
            with self._reaching(""):
                self._opened = (os.getpid(), *url_to_fs(self.address))
        return self._opened[1:]

    @contextmanager
    def _reaching(self, name: str) -> Iterator[None]:
        """Whatever prevents it is a sentence; a file that is not there is a FileNotFoundError."""
        try:
            yield
        except NotADirectoryError as error:
            raise FileNotFoundError(str(error)) from error
        except (C2SError, FileNotFoundError):
            raise
        except Exception as error:  # of any kind: each store has its own
            raise self._unreadable(name, error) from error

    def _unreadable(self, name: str, error: Exception) -> CacheError:
        why = (str(error).strip() or type(error).__name__).splitlines()[0][:300].rstrip(".")
        hint = None if self.local else "Check the address, the network and your credentials."
        where = f"{self.address}/{name}" if name else self.address
        return CacheError(f"{where} cannot be read: {why}.", hint)

    def read(self, name: str) -> bytes:
        """Bytes of a file, by its path below the folder.

        Raises:
            FileNotFoundError: there is none.
        """
        with self._reaching(name):
            if self.local is not None:
                with _opened(f"{self.local}/{name}") as file:
                    return file.read()
            files, root = self._store()
            data: bytes = files.cat_file(f"{root}/{name}")
            return data

    def read_all(self, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Names and bytes of those of the files that are there, in order."""
        found = self.map(_if_there(self.read), names)
        return ((name, data) for name, data in found if data is not None)

    def digests(self, names: Iterable[str]) -> Iterator[tuple[str, str | None]]:
        """Names and hex SHA-256 of files, in order; None for one that is not there."""
        return self.map(_if_there(self.digest), names)

    def map(self, work: Callable[[str], T], names: Iterable[str]) -> Iterator[tuple[str, T]]:
        """What `work` makes of each name, in order. Of a store, many at once: each is waited for."""
        if self.local is not None:
            yield from ((name, work(name)) for name in names)
            return
        with ThreadPoolExecutor(REQUESTS) as pool:
            yield from pool.map(lambda name: (name, work(name)), names)

    def list(self, name: str) -> list[str]:
        """Names of what lies in a folder below this one; none if it is not there."""
        with self._reaching(name):
            try:
                if self.local is not None:
                    return os.listdir(f"{self.local}/{name}")  # noqa: PTH208
                files, root = self._store()
                files.invalidate_cache()
                return [n.rpartition("/")[2] for n in files.ls(f"{root}/{name}", detail=False)]
            except (FileNotFoundError, NotADirectoryError):
                return []

    def sizes(self) -> dict[str, int]:
        """Size in bytes of every file, by its path below the folder."""
        with self._reaching(""):
            files, root = self._store() if self.local is None else (LocalFileSystem(), self.address)
            files.invalidate_cache()
            found = files.find(root, detail=True)
            root = files._strip_protocol(root).rstrip("/")
            return {name[len(root) + 1 :]: int(facts["size"]) for name, facts in found.items()}

    def sizing(self) -> Callable[[str], int | None]:
        """How to ask for the size of a file, None if it is not there: a disk is asked for each, in a
        fraction of the time of a listing; a store is listed once."""
        if self.local is None:
            return self.sizes().get

        def size(name: str) -> int | None:
            try:
                return os.stat(f"{self.local}/{name}").st_size  # noqa: PTH116
            except (FileNotFoundError, NotADirectoryError):
                return None
            except OSError as error:
                raise self._unreadable(name, error) from error

        return size

    def digest(self, name: str) -> str:
        """Hex SHA-256 of a file, read in pieces.

        Raises:
            FileNotFoundError: there is none.
        """
        with self._reaching(name):
            if self.local is not None:
                with _opened(f"{self.local}/{name}") as file:
                    return hashlib.file_digest(file, "sha256").hexdigest()
            files, root = self._store()
            with files.open(f"{root}/{name}", "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()


def _opened(path: str) -> FileIO:
    """A file to read from; a pipe in its place is empty, and not waited for."""
    return FileIO(path, opener=lambda p, flags: os.open(p, flags | getattr(os, "O_NONBLOCK", 0)))


def _if_there(work: Callable[[str], T]) -> Callable[[str], T | None]:
    def found(name: str) -> T | None:
        try:
            return work(name)
        except FileNotFoundError:
            return None

    return found
