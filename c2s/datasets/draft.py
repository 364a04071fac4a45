"""Invariant: what `c2s data init` writes is what the label maps show; it asks nothing, and guesses no name."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from c2s.annotation import NOTHING, PLACEHOLDER
from c2s.datasets.check import in_threads
from c2s.datasets.custom import CLASSES_FILE
from c2s.datasets.descriptor import LabelEncoding
from c2s.datasets.export import conversion, find_export
from c2s.datasets.label_file import RESIZED, read_label_file
from c2s.datasets.pairing import find_pair
from c2s_cache import ConfigError, DataError
from c2s_cache.picture import Picture, opened, rgb, undecodable
from c2s_cache.text_file import read_text

LOOKED = 300
"""Label maps that are looked at, at even distances."""
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
        images, masks: folders, with * where splits have their own.
        pairs, looked: photos that have a label map, and label maps that were looked at.
        splits: names of the splits that have their own folders or lists.
        seen: values or colours, those that classes have first.
        named: whether a file told the names.
        unused: other folders of pictures.
    """

    text: str
    images: str
    masks: str
    pairs: int
    looked: int
    splits: Sequence[str]
    seen: Sequence[Seen]
    named: bool
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
    pair = find_pair(root)
    step = max(1, -(-len(pair.label_files) // LOOKED))
    files = pair.label_files[::step]
    drawn = _are_drawn(files)
    seen = _seen(files, drawn)
    names, source = _names(root, seen)
    if drawn and not source and (export := find_export(root)) is not None:
        raise DataError(
            f"no file tells the colours of the label maps in {root / pair.masks}, but {export} holds another tool's "
            "annotations.",
            f"Convert them: {conversion(export)}. To use the colours as they are, move that file "
            "away.",
        )
    lines = [
        f"# Written by c2s data init from {len(files)} of {len(pair.label_files)} label maps.",
        f"# Names are from {source}." if source else "# Put in what each class shows, in words.",
        *pair.lines,
    ]
    lines += (
        _drawn_lines(seen, names, len(files)) if drawn else _number_lines(seen, names, len(files))
    )
    lines.append("# unseen: [...]  # names of classes whose annotation training must not see")
    return Draft(
        text="\n".join(lines) + "\n",
        images=pair.images,
        masks=pair.masks,
        pairs=len(pair.label_files),
        looked=len(files),
        splits=tuple(pair.folders or pair.lists),
        seen=seen,
        named=bool(source),
        unused=pair.unused,
    )


def _number_lines(seen: Sequence[Seen], names: Mapping[int | Colour, str], files: int) -> list[str]:
    """`classes:` of label maps that hold numbers; 255 is of no class where the others are several and close to 0."""
    lines = ["classes:"]
    others = [s.value for s in seen if isinstance(s.value, int) and s.value != 255]
    void = len(others) > 1 and max(others) < 4 * len(others)
    for one in seen:
        about = _about(one, seen, files) + _hint(names[one.value])
        if one.value == 255 and void:
            lines.append(f"  # 255 is of no class, unless it stands here: {about}")
        else:
            lines.append(f"  {one.value}: {_quoted(names[one.value])}  # {about}")
    return lines


def _drawn_lines(seen: Sequence[Seen], names: Mapping[int | Colour, str], files: int) -> list[str]:
    """`classes:` and `colours:` of label maps that are drawn in colour."""
    lines = ["classes:"]
    for one in seen:
        name = names[one.value]
        lines.append(f"  - {_quoted(name)}  # {_about(one, seen, files)}{_hint(name)}")
    lines += [
        "colours:",
        *(
            f"  {_quoted(names[s.value])}: {list(s.value)}"
            for s in seen
            if isinstance(s.value, tuple)
        ),
    ]
    return lines


def _hint(name: str) -> str:
    """What to do about a class whose name may say that it is none."""
    return (
        ', and if it means "no label", delete it and write ignore: others'
        if name.strip().lower() in NOTHING
        else ""
    )


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
