"""Invariant: what other tools export becomes a folder that `c2s data check` takes, or is refused with what would."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from c2s_cache import ConfigError

if TYPE_CHECKING:
    from c2s.datasets.convert import Conversion

KINDS = (
    "a COCO, panoptic or Label Studio JSON, CVAT's XML, another tool's data set YAML, or a folder of masks in colour "
    "(with labelmap.txt or class_dict.csv) or of .mat files"
)
ARCHIVES = (".zip", ".gz", ".tgz", ".tar", ".7z", ".rar")


def convert_data(
    source: Path,
    out: Path,
    images: Path | None,
    masks: Path | None,
    classes: str | None,
    background: str | None,
    split: str | None,
) -> list[str]:
    """Convert annotations into a folder of one's own; returns sentences on what was written and left out.

    Raises:
        ConfigError: it is no kind that can be converted, or see its reader.
    """
    from c2s.class_list import class_list, understood
    from c2s.cli.folders import check_folder, then_look
    from c2s.datasets.coco_json import read_coco, read_json
    from c2s.datasets.convert import write_classes
    from c2s.datasets.cvat_xml import read_cvat
    from c2s.datasets.dataset_yaml import read_folders, read_outlines
    from c2s.datasets.label_studio import read_label_studio
    from c2s.datasets.mask_folder import read_mask_folder

    check_folder(out)
    kind = source.suffix.lower()
    names = [each[0] for each in class_list(classes, "--classes")] if classes else []
    called = split or _named_split(source)
    splits: dict[str, Conversion] | None
    if source.is_dir():
        splits = read_mask_folder(source, images, names, split)
    elif kind == ".json":
        content = read_json(source)
        if isinstance(content, list):
            splits = {called: read_label_studio(source, content, images, names, background)}
        elif isinstance(content, dict):
            splits = {called: read_coco(source, content, images, masks, background)}
        else:
            splits = None
    elif kind in (".yaml", ".yml"):
        if (said := read_folders(source)) is not None:
            write_classes(out, said)
            kept = f"{out}: {len(said['classes'])} classes; images and masks stay where they are."
            return [kept, then_look(out)]
        splits = read_outlines(source)
    elif kind == ".xml":
        splits = read_cvat(source, images, background, called)
    else:
        splits = None
    if splits is None:
        raise ConfigError(
            f"{source} cannot be converted: expected {KINDS}.",
            "Unpack it first, and name what is in it."
            if kind in ARCHIVES
            else f"Name the folder: c2s data convert {source.parent}"
            if kind == ".mat"
            else None,
        )
    told = [
        sentence
        for name, conversion in splits.items()
        for sentence in (*_write(conversion, out, name), *conversion.notes)
    ]
    return [*told, understood(next(iter(splits.values())).classes), then_look(out)]


def _write(conversion: Conversion, out: Path, split: str) -> list[str]:
    from c2s.terminal import bar

    with bar(f"convert {split}", len(conversion.pairs), "images") as advance:
        conversion.write(out, split, advance)
    return [f"{out}: split {split}, {len(conversion.pairs):,} photos with their label maps."]


def _named_split(file: Path) -> str:
    """The split that a word of a file name says, or "train"."""
    from c2s.datasets.spelling import usual_split

    words = re.split(r"[^a-z]+", file.stem.lower())
    return next(filter(None, map(usual_split, words)), "train")


def show(sentences: list[str], json_: bool) -> None:
    """Print what was converted."""
    import json

    typer.echo(json.dumps({"said": sentences}) if json_ else "\n".join(sentences))
