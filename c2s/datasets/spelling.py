"""Invariant: a folder or list is found however the disk writes its name: in either case, accents as one or apart, and
the usual words for a split."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from c2s.datasets.photos import is_hidden
from c2s_cache import DataError

USUAL_SPLITS = ("train", "val", "test")
_WORDS = r"(train(?:ing)?|val(?:id(?:ation)?)?|test(?:ing)?)"
SPLIT_WORD = re.compile(rf"(?<![a-z]){_WORDS}", re.IGNORECASE)
"""A split's name at the beginning of a word."""


def spelled(root: Path, path: str) -> str | None:
    """A path below the root as the disk writes it; None: nothing is there.

    Raises:
        DataError: the names of several differ only in case or accents, and none is the one asked for.
    """
    if os.path.exists(root / path):  # noqa: PTH110 (no path may be too long for it)
        return path
    here = ""
    for part in PurePosixPath(path).parts:
        one = f"{here}/{part}" if here else part
        if not os.path.exists(root / one):  # noqa: PTH110
            names = [name for name in _names(root / here) if _key(name) == _key(part)]
            if len(names) > 1:
                raise DataError(
                    f"{root / here} holds {' and '.join(sorted(names))}; which is meant by {part}?",
                    "Rename or remove one.",
                )
            if not names:
                return None
            one = f"{here}/{names[0]}" if here else names[0]
        here = one
    return here


def usual_split(word: str) -> str | None:
    """The split that is called so: train, training, val, valid, validation, test or testing, in either case."""
    if re.fullmatch(_WORDS, word, re.IGNORECASE) is None:
        return None
    return next(split for split in USUAL_SPLITS if word.lower().startswith(split))


def split_folders(folder: Path) -> dict[str, str]:
    """Names of the folders in one that are called as splits are, by split.

    Raises:
        DataError: two are of one split.
    """
    return _by_split(folder, ((n, n) for n in _names(folder) if (folder / n).is_dir()))


def split_lists(folder: Path) -> dict[str, str]:
    """Names of the text files in a folder that are called as splits are, by split.

    Raises:
        DataError: two are of one split.
    """
    files = (PurePosixPath(name) for name in _names(folder))
    return _by_split(folder, ((f.stem, f.name) for f in files if f.suffix.lower() == ".txt"))


def near_lists(folder: Path) -> dict[str, str]:
    """The same; of a split without one, the only text file whose name begins with its word (trainaug.txt), but for
    those of train and val together.

    Raises:
        DataError: two are of one split.
    """
    lists = split_lists(folder)
    for split in USUAL_SPLITS:
        near = [
            name
            for name in _names(folder)
            if name.lower().endswith(".txt")
            and name.lower().startswith(split)
            and not name.lower().startswith("trainval")
        ]
        if len(near) == 1:
            lists.setdefault(split, near[0])
    return {split: lists[split] for split in USUAL_SPLITS if split in lists}


def _by_split(folder: Path, found: Iterable[tuple[str, str]]) -> dict[str, str]:
    splits: dict[str, str] = {}
    for word, name in found:
        split = usual_split(word)
        if split is None:
            continue
        if split in splits:
            raise DataError(
                f"{folder} holds {splits[split]} and {name}: which is the split {split}?",
                "Rename or remove one.",
            )
        splits[split] = name
    return {split: splits[split] for split in USUAL_SPLITS if split in splits}


def _names(folder: Path) -> list[str]:
    """What is in a folder, sorted; nothing where there is none."""
    try:
        return sorted(entry.name for entry in folder.iterdir() if not is_hidden(entry.name))
    except OSError:
        return []


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
