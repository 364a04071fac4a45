"""Invariant: what `c2s data init` writes is what the label maps show; it asks nothing, and guesses no name."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from c2s.annotation import PLACEHOLDER
from c2s.datasets.check import in_threads
from c2s.datasets.custom import CLASSES_FILE
from c2s.datasets.descriptor import LabelEncoding
from c2s.datasets.label_file import RESIZED, read_label_file
from c2s.datasets.photos import Listing, is_hidden, list_photos
from c2s_cache import ConfigError, DataError
from c2s_cache.picture import Picture, opened, rgb, undecodable
from c2s_cache.text_file import read_text

LOOKED = 300
"""Label maps that are looked at, at even distances."""
COMPARED = 5
MOST_COLOURS = 256
NAME_FILES = (
    *("class_dict.csv", "labelmap.txt", "label_colors.txt", "classes.txt", "codes.txt"),
    *("labels.txt", "names.txt", "class_names.txt", "id2label.json"),
)
"""Files beside the folders of images that name classes: CamVid's on Kaggle, CVAT's, CamVid's own, and usual ones."""

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Seen:
    """A value or colour of label maps: its pixels, the label maps that have it, and one of them."""

    value: int | Colour
    pixels: int
    files: int
    example: str


@dataclass(frozen=True)
class Draft:
    """A classes.yaml that fits a folder.

    Attributes:
        text: to write.
        images, masks: folders; files that are there, and label maps that were looked at.
        seen: values or colours, those that classes have first.
        named: whether a file told the names.
        unused: other folders of pictures.
    """

    text: str
    images: str
    masks: str
    pairs: int
    looked: int
    seen: Sequence[Seen]
    named: bool
    unused: Sequence[str]


@dataclass(frozen=True)
class _Pair:
    """Folders whose files belong together, and what follows an image's id in the name of its label map."""

    images: str
    masks: str
    suffix: str
    files: Sequence[Path]
    unused: Sequence[str]


def draft_classes(root: Path) -> Draft:
    """Look at the photos and label maps of a folder, and describe them.

    Raises:
        ConfigError: a classes.yaml is there.
        DataError: no two folders belong together, or the label maps cannot be used as they are.
    """
    if (root / CLASSES_FILE).exists():
        raise ConfigError(f"{root / CLASSES_FILE} is there already.", f"See: c2s data check {root}")
    if not root.is_dir():
        raise DataError(f"there is no folder {root} to look at.")
    pair = _pair(root)
    step = max(1, -(-len(pair.files) // LOOKED))
    files = pair.files[::step]
    drawn = _are_drawn(files)
    seen = _seen(files, drawn)
    names, source = _names(root, seen)
    lines = [
        f"# Written by c2s data init from {len(files)} of {len(pair.files)} label maps.",
        f"# Names are from {source}." if source else "# Put in what each class shows, in words.",
    ]
    for key, value, usual in (
        ("images", pair.images, "images"),
        ("masks", pair.masks, "masks"),
        ("mask_suffix", pair.suffix, ".png"),
    ):
        lines += [f"{key}: {json.dumps(value, ensure_ascii=False)}"] * (value != usual)
    lines += (
        _drawn_lines(seen, names, len(files)) if drawn else _number_lines(seen, names, len(files))
    )
    lines.append("# unseen: [...]  # names of classes whose annotation training must not see")
    return Draft(
        "\n".join(lines) + "\n",
        pair.images,
        pair.masks,
        len(pair.files),
        len(files),
        seen,
        bool(source),
        pair.unused,
    )


def _number_lines(seen: Sequence[Seen], names: Mapping[int | Colour, str], files: int) -> list[str]:
    """`classes:` of label maps that hold numbers; 255 is of no class where the others are several and close to 0."""
    lines = ["classes:"]
    others = [s.value for s in seen if isinstance(s.value, int) and s.value != 255]
    void = len(others) > 1 and max(others) < 4 * len(others)
    for one in seen:
        about = _about(one, seen, files)
        if one.value == 255 and void:
            lines.append(f"  # 255 is of no class, unless it stands here: {about}")
        else:
            lines.append(f"  {one.value}: {_quoted(names[one.value])}  # {about}")
    return lines


def _drawn_lines(seen: Sequence[Seen], names: Mapping[int | Colour, str], files: int) -> list[str]:
    """`classes:` and `colours:` of label maps that are drawn in colour."""
    lines = ["classes:"]
    lines += [f"  - {_quoted(names[s.value])}  # {_about(s, seen, files)}" for s in seen]
    lines += [
        "colours:",
        *(
            f"  {_quoted(names[s.value])}: {list(s.value)}"
            for s in seen
            if isinstance(s.value, tuple)
        ),
    ]
    return lines


def _quoted(name: str) -> str:
    return (
        name
        if re.fullmatch(r"[A-Za-z][\w-]*( [\w-]+)*", name)
        else json.dumps(name, ensure_ascii=False)
    )


def _about(one: Seen, seen: Sequence[Seen], files: int) -> str:
    share = 100 * one.pixels / sum(s.pixels for s in seen)
    return (
        f"{share:.2g} % of the pixels, in {one.files} of {files} label maps, such as {one.example}"
    )


def _pair(root: Path) -> _Pair:
    """The two folders of which most files belong together, the one with fewer colours being of label maps."""
    folders = {".": list_photos(root, deep=False)}
    for entry in sorted(os.scandir(root), key=lambda e: e.name):
        if entry.is_dir() and not is_hidden(entry.name):
            folders[entry.name] = list_photos(root / entry.name)
    found: list[tuple[int, str, str, str]] = []
    for images, listing in folders.items():
        for masks, others in folders.items():
            best = _between(listing, others, images == masks)
            if best is not None:
                found.append((best[1], images, masks, best[0]))
    found.sort(key=lambda f: (-f[0], f[3] != "", f[1:]))
    for count, images, masks, between in found:
        if count < found[0][0]:
            break
        paths = {
            i: folders[masks].files[i + between]
            for i in folders[images].files
            if i + between in folders[masks].files
        }
        photos = [root / images / folders[images].files[i] for i in paths]
        labels = [root / masks / path for path in paths.values()]
        if _colours(labels[:COMPARED]) < _colours(photos[:COMPARED]):
            ending = Counter(path.suffix for path in labels).most_common(1)[0][0]
            have = [name for name, listing in folders.items() if listing.files]
            unused = [name for name in have if name not in (images, masks)]
            return _Pair(images, masks, between + ending, labels, unused)
    have = [f"{name}/ ({len(f.files):,} pictures)" for name, f in folders.items() if f.files]
    raise DataError(
        f"{root} holds no two folders of photos and label maps that belong together by their names: it has "
        f"{', '.join(have) or 'no pictures'}.",
        "A label map is called as its photo is: images/a.jpg and masks/a.png, or a_mask.png. Other annotations are "
        "converted: c2s data convert --help",
    )


def _between(images: Listing, masks: Listing, same: bool) -> tuple[str, int] | None:
    """What stands between an image's id and the ending of its label map, and how many images have one."""
    ids = list(images.files)
    known = sorted(masks.files)
    tried: Counter[str] = Counter()
    for image_id in ids[:: max(1, len(ids) // 50)]:
        tried.update(name[len(image_id) :] for name in known if name.startswith(image_id))
    counts = {
        between: sum(i + between in masks.files for i in ids)
        for between, _ in tried.most_common(5)
        if (between or not same) and "/" not in between
    }
    best = max(counts, key=lambda b: (counts[b], -len(b)), default=None)
    return None if best is None else (best, counts[best])


def _colours(files: Iterable[Path]) -> float:
    """Colours that pictures have on average; many of those that cannot be read."""
    counts = []
    for file in files:
        try:
            with opened(file.read_bytes(), undecodable) as picture:
                found = picture.image.convert("RGB").getcolors(1 << 24)
        except (DataError, OSError):
            found = None
        counts.append(len(found) if found else 1 << 24)
    return float(np.mean(counts)) if counts else float(1 << 24)


def _are_drawn(files: Sequence[Path]) -> bool:
    """Whether label maps are drawn in colour; indexed ones are if their palettes differ: then indices mean nothing."""
    palettes = set()
    for file in files[:: max(1, len(files) // 20)]:
        with opened(file.read_bytes(), undecodable) as picture:
            if picture.image.mode in ("RGB", "RGBA") and not _is_grey(picture):
                return True
            palette = picture.image.getpalette()
            if picture.image.mode == "P" and palette is not None:
                used = sorted(set(picture.image.tobytes()))
                palettes |= {(i, *palette[3 * i : 3 * i + 3]) for i in used}
    by_index = Counter(p[0] for p in palettes)
    return any(count > 1 for count in by_index.values())


def _is_grey(picture: Picture) -> bool:
    pixels = rgb(picture.image)
    return bool((pixels == pixels[..., :1]).all())


def _seen(files: Sequence[Path], drawn: bool) -> list[Seen]:
    """Values or colours of label maps; values ascending, colours by how much they cover."""
    # A colour that no picture has: all are then strange ones, and told.
    encoding = LabelEncoding("init", "", {}, {(-1, -1, -1): 0} if drawn else {})
    pixels: Counter[int | Colour] = Counter()
    count: Counter[int | Colour] = Counter()
    example: dict[int | Colour, str] = {}

    def read(file: Path) -> dict[int | Colour, int]:
        found = read_label_file(file.read_bytes(), str(file), encoding)
        values, counts = np.unique(found.values, return_counts=True)
        return {
            found.strange[-1 - v] if drawn else v: n
            for v, n in zip(values.tolist(), counts.tolist(), strict=True)
        }

    for file, found in zip(
        files, in_threads(read, files, min(os.cpu_count() or 1, 8)), strict=True
    ):
        if len(found) > MOST_COLOURS:
            raise DataError(
                f"{file} has {len(found):,} {'colours' if drawn else 'values'}: its edges are blended, or it is "
                "no label map.",
                RESIZED,
            )
        pixels.update(found)
        count.update(found.keys())
        for value in found:
            example.setdefault(value, file.name)
    seen = [Seen(v, n, count[v], example[v]) for v, n in pixels.items()]
    if drawn:
        return sorted(seen, key=lambda s: -s.pixels)
    return sorted(seen, key=lambda s: s.value)


def _names(root: Path, seen: Sequence[Seen]) -> tuple[dict[int | Colour, str], str]:
    """A name for each value or colour: of a file that names them all, or else a placeholder; and that file."""
    wanted = [s.value for s in seen]
    needed = {v for v in wanted if v != 255}
    for file in (root / name for name in NAME_FILES):
        if file.is_file():
            told = _told(file)
            if needed <= set(told):
                return {v: told.get(v, PLACEHOLDER.format(v)) for v in wanted}, file.name
    return {v: PLACEHOLDER.format(v if isinstance(v, int) else i) for i, v in enumerate(wanted)}, ""


def _told(file: Path) -> dict[int | Colour, str]:
    """Names by colour or value that a file tells: `name,r,g,b`, `r g b name`, `name:r,g,b::`, JSON, a name a line."""
    text = read_text(file, "the list of classes")
    if file.suffix == ".json":
        try:
            content = json.loads(text)
            return {int(key): str(name) for key, name in content.items()}
        except (ValueError, AttributeError):
            return {}
    lines = [line.strip() for line in text.splitlines() if line.strip() and line.strip()[0] != "#"]
    colours: dict[int | Colour, str] = {}
    for line in lines:
        parts = [part for part in re.split(r"[,:;\s]+", line) if part]
        numbers = [int(part) for part in parts if part.isdecimal()]
        words = [part for part in parts if not part.isdecimal()]
        if len(numbers) == 3 and words and max(numbers) <= 255:
            colours[numbers[0], numbers[1], numbers[2]] = " ".join(words)
    if colours:
        return colours
    return dict(enumerate(lines))
