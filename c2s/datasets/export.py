"""Invariant: annotations of another tool are known by what their file says, never by its name alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from c2s.datasets.photos import is_hidden, list_photos
from c2s_cache import DataError

BEGINNING = 1 << 16
"""Bytes of a file that are looked at."""
LARGEST = 64
"""Files that are looked at in each folder."""
OUTLINES = "labels"
"""Folder of text files of outlines or boxes beside one of images; their classes are in a YAML that may be elsewhere."""
LOSSLESS = (".png", ".tif", ".tiff", ".bmp")
MOST_COLOURS, FEW_COLOURS, SAME = 256, 64, 0.5
"""Colours of a label map; a grey photo may have as many. Where they are more than the second, this share of the pixels
is like the one to the right."""
SIGNS: dict[str, tuple[tuple[bytes, ...], ...]] = {
    ".json": (
        (b'"images"', b'"file_name"'),
        *((b'"annotations"', b'"original_width"'), (b'"annotations"', b'"segments_info"')),
        *((b'"brushlabels"',), (b'"polygonlabels"',)),
        (b'"version"', b'"flags"', b'"shapes"'),
    ),
    ".xml": ((b"<annotations", b"<image"), (b"<annotations", b"<meta")),
    ".mat": ((b"MATLAB",),),
    ".yaml": ((b"names:", b"train:"), (b"classes:", b"train:", b"masks:")),
}
"""By ending: words of which all stand at the beginning of an export that `c2s data convert` reads, or (LabelMe's) says
what does."""


def find_export(root: Path) -> Path | None:
    """The first file of a folder, or of those in it, that `c2s data convert` would take, or the folder of MATLAB's
    files, or that of outlines; None: there is none."""
    for file in _files(root):
        suffix = ".yaml" if file.suffix.lower() == ".yml" else file.suffix.lower()
        if (signs := SIGNS.get(suffix)) and file.name != "classes.yaml":
            try:
                with file.open("rb") as stream:
                    start = stream.read(BEGINNING)
            except OSError:
                continue
            if any(all(word in start for word in words) for words in signs):
                return file.parent if suffix == ".mat" else file
    return root / OUTLINES if has_outlines(root / OUTLINES) else None


def conversion(export: Path) -> str:
    """The command that converts what `find_export` found; classes of outlines are in a YAML that may be anywhere."""
    if export.is_dir() and has_outlines(export):
        return (
            "c2s data convert FILE.yaml --out FOLDER (FILE.yaml: the one that names the classes, often data.yaml or "
            "called as the folder is)"
        )
    return f"c2s data convert {export} --out FOLDER"


def has_outlines(folder: Path) -> bool:
    """Whether the first text file of a folder, or of those in it, begins with a class and places (YOLO)."""
    file = next((f for pattern in ("*.txt", "*/*.txt") for f in sorted(folder.glob(pattern))), None)
    if file is None:
        return False
    with file.open("rb") as stream:
        return re.match(rb"\d+( [01]?\.?\d+){4,}\s", stream.read(BEGINNING)) is not None


def _files(root: Path) -> Iterator[Path]:
    """Files with such endings, of a folder and of those in it."""
    folders = [root]
    folders += sorted(Path(e) for e in os.scandir(root) if e.is_dir() and not is_hidden(e.name))
    for folder in folders:
        files = sorted(Path(entry) for entry in os.scandir(folder) if entry.is_file())
        wanted = [file for file in files if file.suffix.lower() in (*SIGNS, ".yml")]
        yield from wanted[:LARGEST]


def find_label_map(root: Path) -> str | None:
    """A picture below a folder of photos that is a label map of another one there, or None: it is called as that
    one is, in another folder or with more behind, is no lossy picture and drawn in few colours. One is looked at in
    each folder.
    """
    try:
        pictures = [PurePosixPath(path) for path in list_photos(root).files.values()]
    except DataError:  # said where photos are read
        return None
    folders: dict[str, set[PurePosixPath]] = {}
    for path in pictures:
        folders.setdefault(path.stem, set()).add(path.parent)
    looked: set[PurePosixPath] = set()
    for path in pictures:
        if path.suffix.lower() not in LOSSLESS or path.parent in looked:
            continue
        begins = (path.stem[: match.start()] for match in re.finditer(r"[-_.]", path.stem))
        if len(folders[path.stem]) > 1 or any(path.parent in folders.get(b, ()) for b in begins):
            looked.add(path.parent)
            if _is_drawn(root / path):
                return str(path)
    return None


def _is_drawn(file: Path) -> bool:
    """Few colours; and where they are as many as a grey photo has, areas of one colour, which it has not."""
    try:
        with Image.open(file) as picture:
            colours = picture.convert("RGB").getcolors(MOST_COLOURS)
            pixels = np.asarray(picture)
    except Exception:  # a damaged picture is a photo that the reader of photos names
        return False
    if colours is None or len(colours) <= FEW_COLOURS or pixels.shape[1] < 2:
        return colours is not None
    return float((pixels[:, 1:] == pixels[:, :-1]).mean()) >= SAME
