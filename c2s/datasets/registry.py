"""Invariant: a data set is found by its name, and its folder by --root, C2S_DATA or the configuration file."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

import yaml

from c2s.datasets import coco_stuff
from c2s.datasets.descriptor import Descriptor
from c2s.datasets.folder import FolderSplit
from c2s.datasets.shapes import COUNTS, ShapesSplit
from c2s.datasets.split import Split
from c2s_cache import ConfigError, DataError

CONFIG_FILE = "c2s.yaml"
FOLDERS: dict[str, Descriptor] = {d.DESCRIPTOR.name: d.DESCRIPTOR for d in (coco_stuff,)}
NAMES = ("shapes", *FOLDERS)


@dataclass(frozen=True)
class Dataset:
    """A data set at hand: its names and classes, and its splits.

    `short` names its cache; `view_size` is the side in pixels at which students see it.
    """

    name: str
    short: str
    classes: tuple[str, ...]
    unseen: tuple[int, ...]
    splits: tuple[str, ...]
    view_size: int
    root: Path | None
    descriptor: Descriptor | None

    def split(self, name: str) -> Split:
        """A split: a sequence of `Item`, and an image source for the pipeline.

        Raises:
            DataError: there is no such split, or the data are not there.
        """
        if self.descriptor is None:
            return ShapesSplit(name)
        if self.root is None:
            raise DataError(
                f"where is {self.name}? Neither --root nor C2S_DATA nor `data:` in {CONFIG_FILE} says.",
                f"Name the folder that holds {self.descriptor.folder} with --root DIR.",
            )
        return FolderSplit(self.descriptor, self.root, name)


def load_dataset(name: str, root: str | Path | None = None) -> Dataset:
    """Find a data set by name.

    Args:
        name: one of `NAMES`.
        root: its folder, or the folder that holds its official folder. Default: the environment
            variable C2S_DATA, then `data:` in ./c2s.yaml.

    Raises:
        ConfigError: unknown name.
        DataError: a folder was named that does not exist.
    """
    if name == "shapes":
        split = ShapesSplit("train")
        return Dataset(name, name, split.classes, split.unseen, tuple(COUNTS), 64, None, None)
    if name not in FOLDERS:
        near = difflib.get_close_matches(name, NAMES, 1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise ConfigError(f"unknown data set {name!r}.", f"{hint}Known: {', '.join(NAMES)}.")
    d = FOLDERS[name]
    found = _root(d, root)
    return Dataset(name, d.short, d.classes, d.unseen, tuple(d.splits), d.view_size, found, d)


def _root(descriptor: Descriptor, given: str | Path | None) -> Path | None:
    if given is None:
        given = os.environ.get("C2S_DATA") or _configured()
    if given is None:
        return None
    root = Path(given).expanduser()
    if not root.is_dir():
        raise DataError(
            f"there is no folder {root} to read {descriptor.name} from.",
            f"Name the folder that holds {descriptor.folder} with --root DIR.",
        )
    inner = root / descriptor.folder
    return inner if inner.is_dir() else root


def _configured() -> str | None:
    file = Path(CONFIG_FILE)
    if not file.is_file():
        return None
    try:
        content = yaml.safe_load(file.read_text()) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{file.absolute()} is not valid YAML: {error}.") from error
    if not isinstance(content, dict) or not isinstance(content.get("data", ""), str):
        raise ConfigError(f"{file.absolute()}: expected `data: FOLDER`.")
    return content.get("data")
