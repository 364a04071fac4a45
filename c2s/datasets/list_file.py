"""Invariant: a line of a list names a photo that is there, however it writes the path, or is reported as it stands."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from c2s.datasets.photos import without
from c2s_cache import DataError
from c2s_cache.text_file import read_text

SEPARATOR = re.compile(r"\s*[,;\s]\s*")
"""Between an image and its label map."""
LONGEST = 1024
"""Characters of a line."""


class Entry(NamedTuple):
    """An image id, and the path of its label map as the list writes it, if it does."""

    image_id: str
    label: str | None = None


def read_list(
    file: Path, photos: Callable[[], Collection[str]], suffixes: tuple[str, ...]
) -> list[Entry]:
    """What a list names: an image a line, with or without folders and ending, alone or before its label map.

    Args:
        file: the list.
        photos: gives the ids that there are; not asked where every line is a bare id.
        suffixes: endings of photos.

    Raises:
        DataError: the list cannot be read, names an image twice, or gives it a number.
    """
    entries: list[Entry] = []
    for line in filter(None, map(str.strip, read_text(file, "the list").splitlines())):
        if len(line) > LONGEST:
            raise DataError(
                f"the list {file} has a line of {len(line):,} characters; expected an image id in each."
            )
        entries.append(_entry(line, file, photos, suffixes))
    twice = [image_id for image_id, n in Counter(e.image_id for e in entries).items() if n > 1]
    if twice:
        raise DataError(f"{file} lists an image twice: {twice[0]}.")
    return entries


def tails(path: str) -> list[str]:
    """A path with slashes, and what is left of it as folders are taken from its front."""
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
    return ["/".join(parts[i:]) for i in range(len(parts))]


def _entry(
    line: str, file: Path, photos: Callable[[], Collection[str]], suffixes: tuple[str, ...]
) -> Entry:
    bare = _id(line, suffixes)
    if not re.search(r"[\s/\\,;]", line):
        return Entry(bare)
    there = photos()

    def found(paths: Iterable[str]) -> str | None:
        return next((i for path in paths if (i := _id(path, suffixes)) in there), None)

    spaces = len(SEPARATOR.split(line))
    one_name = (tail for tail in tails(line) if len(SEPARATOR.split(tail)) == spaces)
    if (whole := found((bare, *one_name))) is not None:
        return Entry(whole)
    first, *others = SEPARATOR.split(line, maxsplit=1)
    if not others or (image := found(tails(first))) is None:
        return Entry(found(tails(line)) or bare)  # folders whose names have spaces
    rest = others[0]
    if re.fullmatch(r"-?\d+", rest):
        raise DataError(
            f"the list {file} has a number behind its images ({line!r}), as lists of whole images' labels have.",
            "Name a list of image ids, or of images and their label maps.",
        )
    return Entry(image, rest)


def _id(line: str, suffixes: tuple[str, ...]) -> str:
    """The id that a line names, with or without the ending of a photo."""
    found = without(line, suffixes)
    return unicodedata.normalize("NFC", line) if found is None else found
