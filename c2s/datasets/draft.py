"""Invariant: what `c2s data init` writes is what the label maps show; it asks nothing, and guesses no name."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from c2s.annotation import NOTHING, PLACEHOLDER
from c2s.datasets.check import in_threads
from c2s.datasets.custom import CLASSES_FILE, classes_file
from c2s.datasets.descriptor import LabelEncoding
from c2s.datasets.export import conversion, find_export
from c2s.datasets.label_file import RESIZED, read_label_file
from c2s.datasets.pairing import find_pair
from c2s.datasets.spelling import spelled
from c2s_cache import ConfigError, DataError
from c2s_cache.picture import Picture, opened, rgb, undecodable
from c2s_cache.text_file import read_text

LOOKED = 300
"""Label maps that are looked at, at even distances."""
MOST_COLOURS = 256
NAME_FILES = (
    *("class_dict.csv", "labelmap.txt", "label_colors.txt", "classes.txt", "codes.txt"),
    *("labels.txt", "names.txt", "class_names.txt", "id2label.json", "_classes.csv"),
)
"""Files beside the folders of images, or in them, that name classes: CamVid's on Kaggle, CVAT's, CamVid's own, usual
ones, and Roboflow's."""

_RGB = r"(?P<r>\d{1,3})[,\s]+(?P<g>\d{1,3})[,\s]+(?P<b>\d{1,3})"
COLOUR_LINES = (
    re.compile(rf"{_RGB}[,:;\s]+(?P<name>\D.*)"),
    re.compile(rf"(?P<name>.+?)[,:;\s]+{_RGB}(?::.*)?"),
)
VALUE_LINES = (
    re.compile(r"(?P<value>\d+)\s*[,:;\s]\s*(?P<name>\D.*)"),
    re.compile(r"(?P<name>\D.*?)\s*[,:;\t=]\s*(?P<value>\d+)"),
)

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
    if classes_file(root).exists():
        raise ConfigError(f"{root / CLASSES_FILE} is there already.", f"See: c2s data check {root}")
    if not root.is_dir():
        raise DataError(f"there is no folder {root} to look at.")
    pair = find_pair(root)
    step = max(1, -(-len(pair.label_files) // LOOKED))
    files = pair.label_files[::step]
    drawn = _are_drawn(files)
    seen = _seen(files, drawn)
    places = [root / folder for folder in pair.folders.get("train", (pair.masks, pair.images))]
    names, source, others = _names([root, *places], seen)
    if drawn and not source and (export := find_export(root)) is not None:
        raise DataError(
            f"no file tells the colours of the label maps in {root / pair.masks}, but {export} holds another tool's "
            "annotations.",
            f"Convert them: {conversion(export)}. To use the colours as they are, move that file "
            "away.",
        )
    if len(files) < len(pair.label_files):  # those that were not looked at may have them
        seen += [Seen(value, 0, 0, "") for value in others]
        seen = seen if drawn else sorted(seen, key=lambda s: s.value)
        others = []
    lines = [
        f"# Written by c2s data init from {len(files)} of {len(pair.label_files)} label maps.",
        f"# Names are from {source}." if source else "# Put in what each class shows, in words.",
        *pair.lines,
    ]
    lines += (
        _drawn_lines(seen, names, len(files)) if drawn else _number_lines(seen, names, len(files))
    )
    if others:
        listed = ", ".join(_quoted(names[value]) for value in others)
        lines.append(f"# words: [{listed}]  # named in {source}, and in no label map")
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
        ', and if it means "no label", delete it (and its colour) and write ignore: others'
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
    if not one.files:
        return f"in none of the {files} label maps that were looked at"
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


def _names(
    folders: Sequence[Path], seen: Sequence[Seen]
) -> tuple[dict[int | Colour, str], str, list[int | Colour]]:
    """A name for each value or colour: of a file that names them all, or else a placeholder; that file; and what it
    names that was not seen."""
    wanted = [s.value for s in seen]
    needed = {v for v in wanted if v != 255}
    found = ((folder, spelled(folder, name)) for folder in folders for name in NAME_FILES)
    for file in (folder / name for folder, name in found if name is not None):
        for told in _told(file):
            if needed <= set(told):
                names = {v: told.get(v, PLACEHOLDER.format(v)) for v in wanted}
                return {**told, **names}, file.name, [v for v in told if v not in names]
    numbers = {v: v if isinstance(v, int) else i for i, v in enumerate(wanted)}
    return {v: PLACEHOLDER.format(i) for v, i in numbers.items()}, "", []


def _told(file: Path) -> Iterator[dict[int | Colour, str]]:
    """Names by colour or value, in each way in which a file may be meant: `name,r,g,b`, `r g b name`, `name:r,g,b::`,
    `value,name`, `name: value`, a name a line, JSON."""
    text = read_text(file, "the list of classes")
    if file.suffix == ".json":
        yield from _told_json(text)
        return
    lines = [line.strip() for line in text.splitlines() if line.strip() and line.strip()[0] != "#"]
    matches = [m for line in lines for form in COLOUR_LINES if (m := form.fullmatch(line))]
    if matches:
        yield {(int(m["r"]), int(m["g"]), int(m["b"])): m["name"].strip() for m in matches}
        return
    for form in VALUE_LINES:
        rows = [form.fullmatch(line) for line in lines]
        if lines and not re.search(r"\d", lines[0]):
            rows = rows[1:]  # the titles of the columns
        if rows and all(rows):
            yield {int(m["value"]): m["name"].strip() for m in rows if m}
    yield dict(enumerate(lines))


def _told_json(text: str) -> Iterator[dict[int | Colour, str]]:
    try:
        content = json.loads(text)
    except ValueError:
        return
    pairs = dict(enumerate(content)) if isinstance(content, list) else content
    for way in (pairs, {v: k for k, v in pairs.items()}) if isinstance(pairs, dict) else ():
        with contextlib.suppress(ValueError, TypeError):
            yield {int(value): str(name) for value, name in way.items()}
