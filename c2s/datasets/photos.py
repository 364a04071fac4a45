"""Invariant: what lies in a folder of photos or label maps is either taken, or said to be passed over, and why."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from c2s_cache import DataError

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".heic", ".heif", ".hif"),
    *(".tif", ".tiff", ".bmp", ".gif", ".jp2", ".ppm", ".pgm", ".pnm"),
)
"""Endings of photos."""
SYSTEM = ("@eadir", "__macosx", "#recycle", "thumbs.db", "desktop.ini")
"""Files and folders that file servers and systems put beside those of people; they and names with a leading dot are
hidden."""
SHOWN = 3
"""Names of folders that a note gives."""


@dataclass(frozen=True)
class Listing:
    """What lies in a folder.

    Attributes:
        files: path below the folder, of all that are taken, by what stands before the ending (composed: NFC).
        others: how many files are passed over, by ending ("" of none) in lower case.
        hidden: how many hidden files have an ending that would be taken.
        folders: paths below it of folders that were not looked into, because they are hidden or none was to be.
    """

    files: Mapping[str, str]
    others: Mapping[str, int]
    hidden: int
    folders: tuple[str, ...]

    @property
    def passed_over(self) -> str | None:
        """What was not taken, as a sentence; None if everything was."""
        parts = [f"{count} {ending or 'without ending'}" for ending, count in self.others.items()]
        parts += [f"{self.hidden} hidden"] * bool(self.hidden)
        said = []
        if parts:
            number = sum(self.others.values()) + self.hidden
            which = "1 file is" if number == 1 else f"{number:,} files are"
            said.append(f"{which} passed over, no photos by their names: {', '.join(parts)}.")
        if self.folders:
            more = len(self.folders) - SHOWN
            names = ", ".join(self.folders[:SHOWN]) + (f" and {more:,} more" if more > 0 else "")
            which = (
                "1 folder is" if len(self.folders) == 1 else f"{len(self.folders):,} folders are"
            )
            said.append(f"{which} passed over: {names}.")
        return " ".join(said) or None


def list_photos(
    folder: Path,
    suffixes: tuple[str, ...] = SUFFIXES,
    deep: bool = True,
    labels: tuple[str, ...] = (),
) -> Listing:
    """The photos of a folder.

    Args:
        folder: where to look.
        suffixes: what follows a photo's id in its name, in either case.
        deep: also in the folders below.
        labels: what follows an id in the names of label maps that lie in the same folder.

    Raises:
        DataError: two have one id, a name is no UTF-8, or see `walk`.
    """
    files: dict[str, str] = {}
    others: Counter[str] = Counter()
    hidden = 0
    closed: list[str] = []
    for path in walk(folder, suffixes, deep, closed.append):
        found = without(path, suffixes)
        if labels and without(path, labels) is not None:
            continue
        if is_hidden(PurePosixPath(path).name):
            hidden += found is not None
        elif found is None:
            others[PurePosixPath(path).suffix.lower()] += 1
        elif found in files:
            raise DataError(
                f"{folder} holds two images called {found}: {files[found]} and {path}.",
                "Rename or remove one.",
            )
        else:
            files[found] = utf8(path, folder)
    return Listing(files, dict(others.most_common()), hidden, tuple(sorted(closed)))


def without(path: str, suffixes: Iterable[str]) -> str | None:
    """The id that stands before one of the endings, composed (NFC); None if the path has none of them."""
    lower = path.lower()
    for suffix in suffixes:
        if lower.endswith(suffix.lower()):
            return unicodedata.normalize("NFC", path[: -len(suffix)])
    return None


def is_hidden(name: str) -> bool:
    """Whether a file or folder is one that people do not see as theirs."""
    return name.startswith(".") or name.lower() in SYSTEM


def utf8(path: str, folder: Path) -> str:
    """A path below a folder, as a cache and its records can hold it.

    Raises:
        DataError: it is no text.
    """
    try:
        path.encode()
    except UnicodeEncodeError as error:
        name = os.fsencode(path)
        try:
            name.decode()
        except UnicodeDecodeError:
            what, hint = "is not UTF-8", "Rename it, for example with convmv."
        else:
            what, hint = "this locale cannot write", "Set PYTHONUTF8=1."
        raise DataError(f"{folder} holds a file whose name {what}: {name!r}.", hint) from error
    return path


def walk(
    folder: Path,
    suffixes: tuple[str, ...],
    deep: bool = True,
    passed: Callable[[str], object] = lambda path: None,
) -> Iterator[str]:
    """Files below a folder, as paths relative to it with forward slashes, also through links to folders.

    Hidden files are among them, what lies in hidden folders is not. A link that leads to a folder above itself is
    not followed: it would never end.

    Args:
        folder: where to begin.
        suffixes: of images or label maps.
        deep: also in the folders below.
        passed: is told of folders that are not looked into.

    Raises:
        DataError: a folder cannot be listed, or a pipe, socket or device has the name of an image or label map.
    """
    above = [folder.resolve(), *folder.resolve().parents]
    waiting = [("", frozenset(_identity(str(f)) for f in above))]
    while waiting:
        inside, around = waiting.pop()
        try:
            entries = sorted(os.scandir(folder / inside), key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(f"{folder / inside} cannot be listed ({error.strerror}).") from error
        for entry in entries:
            path = f"{inside}{entry.name}"
            if entry.is_symlink() and not _exists(entry.path):
                yield path  # it is reported like a file that cannot be read
            elif entry.is_file():
                yield path
            elif entry.is_dir():
                if is_hidden(entry.name) or not deep:
                    passed(path)
                elif not entry.is_symlink():  # only links lead back
                    waiting.append((f"{path}/", around | {_identity(entry.path)}))
                elif (linked := _identity(entry.path)) not in around:
                    waiting.append((f"{path}/", around | {linked}))
            elif path.lower().endswith(tuple(s.lower() for s in suffixes)):
                raise DataError(
                    f"{entry.path} is no regular file, but a pipe, socket or device.", "Remove it."
                )


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)  # noqa: PTH116
    return status.st_dev, status.st_ino


def _exists(path: str) -> bool:
    return os.path.exists(path)  # noqa: PTH110
