"""Invariant: a file is used only while it is the one whose bytes were found equal to its receipt."""

from __future__ import annotations

import os
from collections.abc import Mapping

from c2s_cache.errors import DamagedError
from c2s_cache.fingerprint import digest
from c2s_cache.folder import Folder
from c2s_cache.receipt import FileRecord


class Proof:
    """Which files of a cache were found equal to their receipts.

    A file on a disk is digested when it is used for the first time and whenever the file system says that it
    is another one since. What comes from a store is digested each time.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._proven: set[int] = set()

    def fetch(self, records: Mapping[str, FileRecord], what: str) -> dict[str, bytes]:
        """The bytes of files.

        Args:
            records: of the files, by their paths below the cache.
            what: is read, for the message.

        Raises:
            DamagedError: a file is missing or differs from its record.
        """
        found = dict(self._folder.read_all(records))
        for name, record in records.items():
            if name not in found:
                raise self._missing(name, what)
            if digest(found[name]) != record.sha256:
                raise self._differs(name, what)
        return found

    def check(self, records: Mapping[str, FileRecord], what: str) -> list[int]:
        """Make sure of files on a disk that others will read.

        Returns:
            Their stamps: if `stamps` gives the same ones after they were read, it was these files.

        Raises:
            DamagedError: as for `fetch`.
        """
        found = self.stamps(records, what)
        for (name, record), stamp in zip(records.items(), found, strict=True):
            if stamp not in self._proven:
                try:
                    same = self._folder.digest(name) == record.sha256
                except FileNotFoundError:
                    raise self._missing(name, what) from None
                if not same:
                    raise self._differs(name, what)
                self._proven.add(stamp)
        return found

    def stamps(self, records: Mapping[str, FileRecord], what: str) -> list[int]:
        """What the file system says of each file and its record, as a number. A file that was written
        anew, changed or exchanged has another one."""
        stamps = []
        for name, record in records.items():
            try:
                s = os.stat(f"{self._folder.local}/{name}")  # noqa: PTH116
            except (FileNotFoundError, NotADirectoryError):
                raise self._missing(name, what) from None
            facts = (s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns)
            stamps.append(hash((name, record, facts)))
        return stamps

    def _missing(self, name: str, what: str) -> DamagedError:
        return self.damaged(f"{what} cannot be read: {name} is missing.")

    def _differs(self, name: str, what: str) -> DamagedError:
        return self.damaged(f"{what} cannot be read: {name} differs from its receipt.")

    def damaged(self, what: str) -> DamagedError:
        """The error that says so, and how to see more."""
        return DamagedError(
            what, f"See what is damaged with: c2s cache verify {self._folder} --quick"
        )
