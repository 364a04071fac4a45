"""Invariant: annotations of another tool are known by what their file says, never by its name alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from c2s.datasets.photos import is_hidden

BEGINNING = 1 << 16
"""Bytes of a file that are looked at."""
LARGEST = 64
"""Files that are looked at in each folder."""
SIGNS: dict[str, tuple[tuple[bytes, ...], ...]] = {
    ".json": (
        (b'"images"', b'"file_name"'),
        *((b'"annotations"', b'"original_width"'), (b'"annotations"', b'"segments_info"')),
        *((b'"brushlabels"',), (b'"polygonlabels"',)),
    ),
    ".xml": ((b"<annotations", b"<image"), (b"<annotations", b"<meta")),
    ".mat": ((b"MATLAB",),),
    ".yaml": ((b"names:", b"train:"), (b"classes:", b"train:", b"masks:")),
}
"""By ending: words of which all stand at the beginning of an export that `c2s data convert` reads."""


def find_export(root: Path) -> Path | None:
    """The first file of a folder, or of those in it, that `c2s data convert` would take, or the folder of MATLAB's
    files; None: there is none."""
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
    return None


def _files(root: Path) -> Iterator[Path]:
    """Files with such endings, of a folder and of those in it."""
    folders = [root]
    folders += sorted(Path(e) for e in os.scandir(root) if e.is_dir() and not is_hidden(e.name))
    for folder in folders:
        files = sorted(Path(entry) for entry in os.scandir(folder) if entry.is_file())
        wanted = [file for file in files if file.suffix.lower() in (*SIGNS, ".yml")]
        yield from wanted[:LARGEST]
