"""Invariant: photos and label maps belong together by their names alone, wherever people put them."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from c2s.datasets.export import conversion, find_export
from c2s.datasets.photos import is_hidden, list_photos
from c2s.datasets.spelling import (
    SPLIT_WORD,
    USUAL_SPLITS,
    near_lists,
    spelled,
    split_folders,
    split_lists,
    usual_split,
)
from c2s_cache import DataError
from c2s_cache.picture import opened, undecodable

COMPARED = 5
MANY = 1 << 16
"""Colours that no label map has; Pillow counts the slower the more it is to count."""
MASK_WORD = re.compile(r"annot|mask|label|seg|ground|(?<![a-z])gt(?![a-z])", re.IGNORECASE)
"""In the name of a folder of label maps."""
LIST_FOLDERS = ("ImageSets/Segmentation", "ImageSets", "splits", "lists")


@dataclass(frozen=True)
class FolderPair:
    """Photos and label maps that belong together.

    Attributes:
        images, masks: folders below the root, with * where each split has its own.
        suffix: what follows an image's id in the name of its label map.
        label_files: label maps that belong to a photo.
        folders: images and masks by split, where each has its own in another way than images/train.
        lists: files that name the images of a split, by split, in another place than train.txt.
        unused: other folders of pictures.
    """

    images: str
    masks: str
    suffix: str
    label_files: Sequence[Path]
    folders: Mapping[str, tuple[str, str]]
    lists: Mapping[str, str]
    unused: Sequence[str]

    @property
    def lines(self) -> list[str]:
        """What a classes.yaml says of folders, endings and lists that are not the usual ones."""
        lines = []
        for split, (images, masks) in self.folders.items():
            lines.append(f"{split}: {{images: {_quoted(images)}, masks: {_quoted(masks)}}}")
        said = {} if self.suffix.lower() == ".png" else {"mask_suffix": self.suffix}
        if not self.folders:
            usual = {"images": self.images, "masks": self.masks}
            said |= {key: folder for key, folder in usual.items() if folder != key}
        lines += [f"{key}: {_quoted(value)}" for key, value in said.items()]
        lists = ", ".join(f"{split}: {_quoted(file)}" for split, file in self.lists.items())
        return lines + [f"splits: {{{lists}}}"] * bool(lists)


@dataclass(frozen=True)
class _Place:
    """Pictures by their path below a folder without ending; or below the folders of splits, behind the split."""

    files: dict[str, Path] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)


def find_pair(root: Path) -> FolderPair:
    """The folders of which most files belong together; label maps are known by their folder's name, or else by having
    fewer colours.

    Raises:
        DataError: no two belong together, or lists name images of no split train.
    """
    names = _folders(root)
    plain = {".": _Place(_pictures(root, ".", deep=False))}
    plain |= {name: _Place(_pictures(root, name)) for name in names}
    places = plain | _split_places(root, names)
    found = []
    for images, photos in places.items():
        for masks, maps in places.items():
            if bool(photos.splits) == bool(maps.splits):
                between, count = _between(photos.files, maps.files, images == masks)
                if count:
                    rank = (-count, between != "", not photos.splits, images, masks)
                    found.append((rank, between))
    for rank, between in sorted(found):
        if rank[0] > min(found)[0][0]:
            break
        photos, maps = places[rank[3]], places[rank[4]]
        ids = [i for i in photos.files if i + between in maps.files]
        labels = [maps.files[i + between] for i in ids]
        if _are_masks(rank[3], rank[4], [photos.files[i] for i in ids], labels):
            ending = Counter(path.suffix for path in labels).most_common(1)[0][0]
            own = [s for s in USUAL_SPLITS if s in photos.splits and s in maps.splits]
            folders = {s: (photos.splits[s], maps.splits[s]) for s in own}
            used = {f for pair in folders.values() for f in pair} or {rank[3], rank[4]}
            unused = [
                name
                for name, place in plain.items()
                if place.files and not any(f"{one}/".startswith(f"{name}/") for one in used)
            ]
            lists = {} if folders or split_folders(root / rank[3]) else _lists(root)
            return FolderPair(rank[3], rank[4], between + ending, labels, folders, lists, unused)
    have = [f"{n}/ ({said})" for n in plain if (said := _contents(root / n, deep=n != "."))]
    export = find_export(root)
    raise DataError(
        f"{root} holds no two folders of photos and label maps that belong together by their names: it has "
        f"{', '.join(have) or 'no pictures'}.",
        f"It has another tool's annotations, {export}: {conversion(export)}."
        if export is not None
        else "A label map is called as its photo: images/a.jpg and masks/a.png, or a_mask.png; or write classes.yaml, "
        "and a photo and its label map a line into train.txt. Other annotations are converted: c2s data convert --help",
    )


def _contents(folder: Path, deep: bool) -> str:
    """How many pictures a folder holds, or else of what it holds most."""
    listing = list_photos(folder, deep=deep)
    if listing.files:
        return f"{len(listing.files):,} pictures"
    return next((f"{n:,} {ending}" for ending, n in listing.others.items() if ending), "")


def _split_places(root: Path, names: Sequence[str]) -> dict[str, _Place]:
    """Folders of several splits by their path with * for the split, but for those like images/train."""
    places: dict[str, _Place] = {}
    for path in [p for name in names for p in (name, *_folders(root, name))]:
        word = SPLIT_WORD.search(path)
        if word is None:
            continue
        split = usual_split(word[0])
        assert split is not None
        place = places.setdefault(f"{path[: word.start()]}*{path[word.end() :]}", _Place())
        if split not in place.splits and (pictures := _pictures(root, path)):
            place.splits[split] = path
            place.files.update({f"{split}/{i}": file for i, file in pictures.items()})
    return {
        name: place
        for name, place in places.items()
        if len(place.splits) > 1
        and "train" in place.splits
        and not (name.endswith("/*") and all(name[:-1] + s == f for s, f in place.splits.items()))
    }


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def _pictures(root: Path, name: str, deep: bool = True) -> dict[str, Path]:
    folder = root / name
    return {i: folder / path for i, path in list_photos(folder, deep=deep).files.items()}


def _folders(root: Path, name: str = "") -> list[str]:
    """Paths from the root of the folders in one of its folders."""
    found = [e.name for e in os.scandir(root / name) if e.is_dir() and not is_hidden(e.name)]
    return [f"{name}/{one}" if name else one for one in sorted(found)]


def _lists(root: Path) -> dict[str, str]:
    """Lists of the images of each split, in the places where VOC and others have them.

    Raises:
        DataError: there are lists, and none that is of the split train.
    """
    if split_lists(root):
        return {}
    for place in LIST_FOLDERS:
        folder = spelled(root, place)
        files = {} if folder is None else near_lists(root / folder)
        if files and "train" not in files:
            have = f"{root / (folder or '')} holds {', '.join(files.values())}"
            raise DataError(
                f"{have}, and no list that can only be of the split train.",
                "Call the one that is train.txt, or remove the lists.",
            )
        if files:
            return {split: f"{folder}/{file}" for split, file in files.items()}
    return {}


def _are_masks(images: str, masks: str, photos: Sequence[Path], labels: Sequence[Path]) -> bool:
    """Whether the second of two folders holds label maps: by the words of their names, or else by their colours."""
    said = [MASK_WORD.search(path) is not None for path in (images, masks)]
    if said[0] != said[1]:
        return said[1]
    return _colours(labels[:COMPARED]) < _colours(photos[:COMPARED])


def _between(images: Mapping[str, Path], masks: Mapping[str, Path], same: bool) -> tuple[str, int]:
    """What stands between an image's id and the ending of its label map, and how many images have one."""
    ids = list(images)
    known = sorted(masks)
    tried: Counter[str] = Counter()
    for image_id in ids[:: max(1, len(ids) // 50)]:
        tried.update(name[len(image_id) :] for name in known if name.startswith(image_id))
    counts = {
        between: sum(i + between in masks for i in ids)
        for between, _ in tried.most_common(5)
        if (between or not same) and "/" not in between
    }
    best = max(counts, key=lambda b: (counts[b], -len(b)), default="")
    return best, counts.get(best, 0)


def _colours(files: Iterable[Path]) -> float:
    """Colours that pictures have on average; many of those that cannot be read."""
    counts = []
    for file in files:
        try:
            with opened(file.read_bytes(), undecodable) as picture:
                found = picture.image.convert("RGB").getcolors(MANY)
        except (DataError, OSError):
            found = None
        counts.append(len(found) if found else MANY)
    return float(np.mean(counts)) if counts else float(MANY)
