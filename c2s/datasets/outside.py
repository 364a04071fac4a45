"""Invariant: a photo of one's own that is in no split, or in two, is said."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path, PurePosixPath

from c2s.datasets.descriptor import SplitLayout
from c2s.datasets.folder import FolderSplit
from c2s.datasets.photos import list_photos
from c2s.datasets.spelling import spelled, usual_split
from c2s_cache import DataError

OTHER_LISTS = (".csv", ".tsv", ".json", ".lst")


def outside_splits(split: FolderSplit) -> list[str]:
    """Sentences on photos beside those of the splits, and on those that several have.

    They are looked for where lists choose from one folder, and where the folders of splits lie in one.

    Args:
        split: any of a data set; of an official one nothing is said.
    """
    layouts = split.descriptor.splits
    if split.descriptor.download or not all(isinstance(v, SplitLayout) for v in layouts.values()):
        return []
    every = {name: FolderSplit(split.descriptor, split.root, name) for name in layouts}
    try:
        if any(one.without_image for one in every.values()):
            return []  # the list is wrong, which is said where it is read
        chosen = {name: {one.image_file(i) for i in one.listed} for name, one in every.items()}
        listed = [one.descriptor.layout(name) for name, one in every.items()]
        top = _top([layout for layout in listed if isinstance(layout, SplitLayout)])
        found = None if top is None else spelled(split.root, top)
        there = {} if found is None else list_photos(split.root / found).files
    except DataError:  # said where the splits are read
        return []
    folder = split.root / (found or "")
    rest = [path for path in there.values() if not any(folder / path in c for c in chosen.values())]
    notes = [_said(len(rest), f"of {folder} ", "no split", min(rest))] if rest else []
    notes += _shared(chosen)
    if not any(layout.lists for layout in listed if isinstance(layout, SplitLayout)):
        notes += [
            f"{file} is not read: the list of a split is a text file ({file.stem}.txt), an image a line."
            for file in sorted(split.root.iterdir())
            if file.suffix.lower() in OTHER_LISTS and usual_split(file.stem)
        ]
    return notes


def _top(layouts: list[SplitLayout]) -> str | None:
    """The folder of the photos of all splits; None: nothing says that others in it would belong to one."""
    images = [layout.images[0] for layout in layouts]
    if all(layout.lists for layout in layouts):
        return images[0] if len({*images}) == 1 else None
    parents = {str(PurePosixPath(image).parent) for image in images}
    usual = all(usual_split(PurePosixPath(image).name) for image in images)
    return parents.pop() if usual and len(parents) == 1 and parents != {"."} else None


def _shared(chosen: Mapping[str, set[Path]]) -> list[str]:
    notes = []
    for (first, ones), (second, others) in combinations(chosen.items(), 2):
        if both := ones & others:
            notes.append(_said(len(both), "", f"{first} and {second}", min(both).name))
    return notes


def _said(count: int, which: str, where: str, example: str) -> str:
    photos = "1 photo" if count == 1 else f"{count:,} photos"
    return f"{photos} {which}{'is' if count == 1 else 'are'} in {where}, such as {example}."
