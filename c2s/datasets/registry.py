"""Invariant: a data set is found by its name, and its folder by --root, C2S_DATA or the configuration file."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, replace
from pathlib import Path

from c2s.class_list import Names
from c2s.config import shown
from c2s.datasets import (
    ade20k,
    ade20k_full,
    cityscapes,
    coco_panoptic,
    coco_stuff,
    context,
    context_full,
    vipseg,
    voc,
)
from c2s.datasets.custom import CLASSES_FILE, describe_folder, is_folder_name
from c2s.datasets.descriptor import Descriptor, HubLayout, TestProtocol
from c2s.datasets.folder import FolderSplit
from c2s.datasets.hub import HubSplit
from c2s.datasets.partition import read_split_file
from c2s.datasets.shapes import COUNTS, CROWDED, MOVING, THINGS, ShapesSplit, shapes_protocol
from c2s.datasets.split import Split
from c2s.shapes import scenes
from c2s.strict_yaml import read_yaml
from c2s_cache import ConfigError, DataError

CONFIG_FILE = "c2s.yaml"
FOLDERS: dict[str, Descriptor] = {
    d.name: d
    for d in (
        voc.DESCRIPTOR,
        voc.WITH_BACKGROUND,
        coco_stuff.DESCRIPTOR,
        coco_stuff.THINGS_ALONE,
        context.DESCRIPTOR,
        context.WITH_BACKGROUND,
        ade20k.DESCRIPTOR,
        cityscapes.DESCRIPTOR,
        coco_panoptic.DESCRIPTOR,
        ade20k_full.DESCRIPTOR,
        context_full.DESCRIPTOR,
        vipseg.DESCRIPTOR,
    )
}
SHAPES = {
    "shapes": scenes.CLASSES,
    "shapes-renamed": scenes.RENAMED,
    THINGS: ("background", *scenes.THINGS),
    MOVING: scenes.CLASSES,
    CROWDED: scenes.CLASSES,
}
"""Names of the classes of the Shapes world, by data set."""
NAMES = ("shapes", *FOLDERS, *list(SHAPES)[1:])


@dataclass(frozen=True)
class Dataset:
    """A data set at hand: its names and classes, and its splits.

    `short` names its cache; `prompts` are the class names as a sentence wants them, `names` all that a class may be
    asked by; `protocol` says how the field trains and tests on it.
    """

    name: str
    short: str
    classes: tuple[str, ...]
    prompts: tuple[str, ...]
    names: Names
    unseen: tuple[int, ...]
    splits: tuple[str, ...]
    protocol: TestProtocol
    root: Path | None
    descriptor: Descriptor | None

    def split(self, name: str) -> Split:
        """A split: a sequence of `LabelledImage`, and an image source for the pipeline.

        Raises:
            DataError: there is no such split, or the data are not there.
        """
        if self.descriptor is None:
            return ShapesSplit(name, self.unseen, self.name, self.classes)
        if isinstance(self.descriptor.splits.get(name), HubLayout):
            return HubSplit(self.descriptor, name)
        return self.folder_split(name)

    def folder_split(self, name: str) -> FolderSplit:
        """A split that lies in a folder; any data set but shapes has these.

        Raises:
            DataError: nothing says where the data are.
        """
        if self.descriptor is None:
            raise DataError(f"{self.name} lies in no folder: it is drawn on demand.")
        if self.root is None:
            raise DataError(
                f"where is {self.name}? Neither --root nor C2S_DATA nor `data:` in {CONFIG_FILE} says.",
                f"Name the folder that holds {self.descriptor.folder} with --root DIR.",
            )
        return FolderSplit(self.descriptor, self.root, name)


def load_dataset(
    name: str, root: str | Path | None = None, split_file: Path | None = None
) -> Dataset:
    """Find a data set.

    Args:
        name: one of `NAMES`, or the path of a folder with a classes.yaml, or the name of one that `root`
            is or holds.
        root: its folder, or the folder that holds its official folder. Default: the environment
            variable C2S_DATA, then `data:` in ./c2s.yaml.
        split_file: YAML file that says which classes are unseen, in place of the field's choice.

    Raises:
        ConfigError: unknown name, or a wrong classes.yaml or split file.
        DataError: a folder was named that does not exist.
    """
    if name in SHAPES:
        if root is not None:
            data_root(root)
        split = ShapesSplit("train", None, name, SHAPES[name])
        unseen = read_split_file(split_file, split.classes) if split_file else split.unseen
        return Dataset(
            name=name,
            short=name,
            classes=split.classes,
            prompts=split.classes,
            names=tuple((c,) for c in split.classes),
            unseen=unseen,
            splits=tuple(COUNTS),
            protocol=shapes_protocol(name),
            root=None,
            descriptor=None,
        )
    if name in FOLDERS:
        descriptor = FOLDERS[name]
        found = _root(descriptor, root)
    elif (own := _own_folder(name, root)) is not None:
        found = own
        if root is not None and is_folder_name(name):
            raise ConfigError(f"{name} is the folder of a data set itself.", "Leave out --root.")
        if not found.is_dir():
            raise DataError(
                f"there is no folder {found} to read a data set from.",
                f"What another tool exported is converted first: c2s data convert {found} --out FOLDER"
                if found.is_file()
                else None,
            )
        descriptor = describe_folder(found)
    else:
        near = difflib.get_close_matches(name, NAMES, 1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise ConfigError(
            f"unknown data set {name!r}.",
            f"{hint}Known: {', '.join(NAMES)}, or the path of your own folder with a classes.yaml.",
        )
    if split_file:
        descriptor = replace(descriptor, unseen=read_split_file(split_file, descriptor.classes))
    return Dataset(
        name=descriptor.name,
        short=descriptor.short,
        classes=descriptor.classes,
        prompts=descriptor.prompts,
        names=descriptor.names,
        unseen=descriptor.unseen,
        splits=tuple(descriptor.splits),
        protocol=descriptor.protocol,
        root=found,
        descriptor=descriptor,
    )


def data_root(given: str | Path | None) -> Path | None:
    """The folder that --root, C2S_DATA or `data:` in ./c2s.yaml names, in this order; None if none does.

    Raises:
        DataError: the folder does not exist.
    """
    given = given or os.environ.get("C2S_DATA") or _configured()
    if given is None:
        return None
    root = Path(given).expanduser()
    if not root.is_dir():
        raise DataError(
            f"there is no folder {root} to read data sets from.",
            "Name the folder that holds the official folders with --root or C2S_DATA; "
            "c2s data list says what belongs there.",
        )
    return root


def _own_folder(name: str, root: str | Path | None) -> Path | None:
    """The user's own folder of that path or name; None if it is neither."""
    if is_folder_name(name):
        return Path(name).expanduser()
    if root is None:
        return None
    base = Path(root).expanduser()
    if (base / name / CLASSES_FILE).is_file():
        return base / name
    named = (base / CLASSES_FILE).is_file() and describe_folder(base).name == name
    return base if named else None


def _root(descriptor: Descriptor, given: str | Path | None) -> Path | None:
    root = data_root(given)
    if root is None:
        return None
    official = Path(descriptor.folder)
    inner = [root / official, root / official.name]
    return next((folder for folder in inner if folder.is_dir()), root)


def _configured() -> str | None:
    file = Path(CONFIG_FILE)
    if not file.is_file():
        return None
    content = read_yaml(file)
    data = content.get("data")
    if not isinstance(data, str | None) or set(content) - {"data"}:
        got = ", ".join(map(shown, content))
        raise ConfigError(
            f"{file.absolute()}: expected `data: FOLDER` and no other key, got {got[:200]}."
        )
    return data
