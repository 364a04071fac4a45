"""What lies in a folder of label maps that are missing, and what to do with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from c2s.datasets.export import SIGNS, conversion, find_export
from c2s.datasets.photos import SUFFIXES, list_photos

LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".avif", ".heic")
ANEW = "That format changes the values of a label map: export them anew as PNG."
PAIRED = "Where names do not say it, train.txt does: a photo and its label map a line (images/a.jpg masks/b.png)."
ADVICE = "Say in classes.yaml how their names end after the photo's: mask_suffix:"


def foreign_labels(
    root: Path,
    folder: Path,
    suffixes: tuple[str, ...],
    missing: Sequence[str],
    found: Sequence[str],
    every: bool,
) -> str | None:
    """A sentence or two on what a folder holds in place of label maps; None: nothing that tells.

    Args:
        root: the data set's folder.
        folder: that of the label maps.
        suffixes: with which their names end after the photos'.
        missing: ids of photos that have none, one at least.
        found: names of label maps that belong to no photo.
        every: whether no photo has one.
    """
    if every and (ending := _common_ending(missing, found)):
        said = f"{folder} holds {missing[0]}{ending}."
        return f"{said} {ANEW}" if ending.lower().endswith(LOSSY) else f"{said} {ADVICE} {ending}"
    others = list_photos(folder, suffixes).others
    if not others:
        return PAIRED if every and found else None
    ending, count = next(iter(others.items()))
    said = f"{folder} holds {count:,} {ending or 'without ending'}."
    if ending.lower().endswith(LOSSY):
        return f"{said} {ANEW}"
    if ending in SUFFIXES:
        return f"{said} {ADVICE} {ending}"
    if (export := find_export(root)) is not None:
        return f"{said} Convert them: {conversion(export)}"
    if ending in SIGNS:
        return f"{said} Convert them: c2s data convert --help"
    return f"{said} Save them as PNG that hold class numbers."


def _common_ending(missing: Sequence[str], found: Sequence[str]) -> str:
    """What the names of all label maps end with after the photos'; nothing where they do not end alike."""
    names = set(found)
    endings = [n[len(missing[0]) :] for n in sorted(names) if n.startswith(missing[0])]
    return next((e for e in endings if all(f"{i}{e}" in names for i in missing)), "")
