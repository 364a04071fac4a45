"""A user's own data set: a folder with `classes.yaml`, and with `images/` and `masks/` or the name of a
Hugging Face data set."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from c2s.class_list import tidy
from c2s.config import known, sentences, shown, validated
from c2s.datasets.descriptor import Descriptor, LabelEncoding, SplitLayout
from c2s.datasets.export import conversion, find_export, find_label_map
from c2s.datasets.hub import class_names, hub_layouts
from c2s.datasets.partition import unseen_ids
from c2s.datasets.photos import SUFFIXES, is_hidden, list_photos, walk, without
from c2s.datasets.spelling import USUAL_SPLITS, spelled, split_folders, split_lists
from c2s.strict_yaml import read_yaml
from c2s_cache import ConfigError

CLASSES_FILE = "classes.yaml"

Channel = Annotated[int, Field(ge=0, le=255)]
Value = Annotated[int, Field(ge=0, le=65535)]


class Folders(BaseModel):
    """Where the images and masks of a split lie, from the data set's folder on."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    images: str
    masks: str


class ClassesFile(BaseModel):
    """What `classes.yaml` may say. Only `classes` is needed.

    Attributes:
        name: of the data set; default: the name of the folder.
        classes: names, mask value 0 first; or a mapping from mask value to name, for masks with gaps; or,
            with `hf`, the ClassLabel column that has the names.
        words: names of further classes that no mask has; they are unseen.
        ignore: mask values that belong to no class, besides 255 (65535 with more than 254 classes); or
            "others": all values and colours that no class has.
        unlabelled: "use": photos without a mask beside others that have one belong to the data set, and no
            class of theirs is known; default: one that lacks its mask is an error.
        unseen: class names, or positions in the class list.
        prompts: names as a sentence wants them, by class name.
        colours: [red, green, blue] by class name, for masks drawn in colour.
        hf: Hugging Face data set that holds images and masks: a repository of the Hub, or a folder
            (from this one on) of parquet files, of images with metadata.csv, or written by save_to_disk.
        images, masks: folders; with `hf`, columns. Default: images and masks; of columns, image and the
            only other column of images.
        mask_suffix: what follows the image id in the name of a mask.
        splits: list files by split name, an image or an image and its mask a line; with `hf`, its own names of
            those that are renamed.
        train, val, test: folders of a split's images and masks.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str | None = None
    classes: list[str] | dict[Value, str] | str
    words: list[str] = []
    ignore: list[Value] | Literal["others"] = []
    unlabelled: Literal["refuse", "use"] = "refuse"
    unseen: list[str | int] = []
    prompts: dict[str, str] = {}
    colours: dict[str, tuple[Channel, Channel, Channel]] = {}
    hf: str | None = None
    images: str | None = None
    masks: str | None = None
    mask_suffix: str = ".png"
    splits: dict[str, str] = {}
    train: Folders | None = None
    val: Folders | None = None
    test: Folders | None = None


def is_folder_name(name: str) -> bool:
    """Whether what was given as a data set is a path: it has a slash, or a folder or file is there."""
    return "/" in name or "\\" in name or name in (".", "..") or os.path.exists(name)  # noqa: PTH110 (no path may be too long for it)


def describe_folder(root: Path) -> Descriptor:
    """Descriptor of the user's data set in a folder.

    The splits of a Hugging Face data set are its own. Otherwise they are those of `splits`; else of the
    files train.txt, val.txt, test.txt; else of the folders train, val, test below images and masks; else
    all images are the split "train". Folders and files are found in either case. A folder of photos without a
    classes.yaml has neither label maps nor classes.

    Raises:
        ConfigError: `classes.yaml` cannot be read or is wrong, or there is none, nor photos alone.
        DataError: a class name occurs twice, there are more than 32,767, or the Hugging Face data set cannot
            be read.
        MissingExtra: it needs the package `datasets`.
    """
    file = classes_file(root)
    if not file.is_file():
        return _photos(root)
    try:
        content = validated(ClassesFile, read_yaml(file))
    except ValidationError as error:
        closest: dict[Any, Any] = {}  # of the several forms that a key may have, its value's
        for failed in sorted(error.errors(), key=_rank):
            closest[failed["loc"][:1]] = failed
        raise ConfigError(sentences(_sentence(file, e) for e in closest.values())) from error
    source = None if content.hf is None else _source(root, content.hf)
    given = content.classes
    if isinstance(given, str):
        if source is None:
            raise ConfigError(f"{file}: `classes` must be a list or a mapping, got {given!r}.")
        given = class_names(source, given)
    listed = given if isinstance(given, dict) else dict(enumerate(given))
    named = {v: tidy(n, str(file)) for v, n in listed.items()}
    if "" in named.values():
        raise ConfigError(
            f"{file}: the class of mask value {next(v for v, n in named.items() if not n)} has no name."
        )
    ignored = [] if content.ignore == "others" else content.ignore
    kept = [v for v in sorted(named) if v not in ignored]
    words = tuple(tidy(n, str(file)) for n in content.words)
    if "" in words:
        raise ConfigError(f"{file}: one of `words` is blank.")
    classes = tuple(named[v] for v in kept) + words
    if not kept:
        raise ConfigError(f"{file}: `classes` is empty.")
    value_of = {class_name: v for v, class_name in named.items()}
    prompts = {tidy(n, str(file)): p for n, p in content.prompts.items()}
    colours_of = {tidy(n, str(file)): rgb for n, rgb in content.colours.items()}
    for key, entries in (("prompts", prompts), ("colours", colours_of)):
        for class_name in entries:
            if class_name not in value_of and (key == "colours" or class_name not in words):
                raise ConfigError(f"{file}: `{key}` names {class_name!r}, which is no class.")
    values = {v: i for i, v in enumerate(kept)} | dict.fromkeys(ignored)
    colours = {rgb: value_of[n] for n, rgb in colours_of.items()}
    name = content.name or root.resolve().name
    return Descriptor(
        name=name,
        short=re.sub(r"[^\w.-]+", "-", name),
        folder=root.name,
        classes=classes,
        prompts=tuple(prompts.get(n, n) for n in classes),
        unseen=unseen_ids([*content.unseen, *words], classes, str(file)),
        splits=_splits(root, content)
        if source is None
        else hub_layouts(source, content.images, content.masks, content.splits),
        encodings=(
            LabelEncoding(
                "masks",
                content.mask_suffix,
                values,
                colours,
                ignores_others=content.ignore == "others",
            ),
        ),
        unlabelled=content.unlabelled == "use",
        download="",
        image_suffixes=SUFFIXES,
    )


def classes_file(root: Path) -> Path:
    """Where the classes.yaml of a folder is, or would be.

    Raises:
        ConfigError: there is one that is called a little otherwise.
    """
    file = root / CLASSES_FILE
    near = next(filter(None, (spelled(root, name) for name in (CLASSES_FILE, "classes.yml"))), None)
    if near is not None and not file.exists():
        raise ConfigError(f"{root / near} is not read.", f"Rename it to {CLASSES_FILE}.")
    return file


def _source(root: Path, name: str) -> str:
    """What `hf` names: a folder, as seen from the data set's own, or else a repository of the Hub."""
    folder = root / Path(name).expanduser()
    return str(folder.resolve()) if folder.is_dir() else name


def _photos(root: Path) -> Descriptor:
    """A folder of photos alone: no label maps, no class names; all of them are the split "train".

    Raises:
        ConfigError: it has label maps or another tool's annotations, or holds no photo.
    """
    write = "a list of class names or a mapping of mask values to names"
    if spelled(root, "masks") is not None:
        raise ConfigError(
            f"{root} has masks, but no {CLASSES_FILE}.",
            f"Write one with `classes:`, {write}; or let the masks say: c2s data init {root}",
        )
    names = (path for path in walk(root, ()) if not is_hidden(Path(path).name))
    if all(without(path, SUFFIXES) is None for path in names):
        passed_over = list_photos(root).passed_over
        said = f" {passed_over}" if passed_over else ""
        raise ConfigError(
            f"{root} is no data set: it has no {CLASSES_FILE} and no photo.{said}",
            f"Put photos there; or photos into images/, label maps into masks/, and a {CLASSES_FILE} with "
            f"`classes:`, {write}.",
        )
    if (export := find_export(root)) is not None:
        raise ConfigError(
            f"{root} has no {CLASSES_FILE}, but another tool's annotations: {export}.",
            f"Convert them: {conversion(export)}. To use the photos alone, move that file away.",
        )
    if (labels := find_label_map(root)) is not None:
        raise ConfigError(
            f"{root} has no {CLASSES_FILE}, but label maps beside its photos, such as {labels}.",
            f"Let them say what they hold: c2s data init {root}. To use the photos alone, name the folder that holds "
            "only these.",
        )
    name = root.resolve().name
    splits = {"train": SplitLayout((".",), ())}
    return Descriptor(name, name, ".", (), (), splits, (), "", image_suffixes=SUFFIXES)


def _splits(root: Path, content: ClassesFile) -> dict[str, SplitLayout]:
    own = {split: getattr(content, split) for split in USUAL_SPLITS}
    if any(own.values()):
        if content.splits or content.images or content.masks:
            file = root / CLASSES_FILE
            raise ConfigError(
                f"{file}: folders of each split go with neither `images`, `masks` nor `splits`."
            )
        return {s: SplitLayout((f.images,), (f.masks,)) for s, f in own.items() if f is not None}
    images, masks = content.images or "images", content.masks or "masks"
    if lists := content.splits or split_lists(root):
        return {s: SplitLayout((images,), (masks,), ((file,),)) for s, file in lists.items()}
    folders = [split_folders(root / (spelled(root, place) or place)) for place in (images, masks)]
    if folders[0]:
        return {
            s: SplitLayout((f"{images}/{name}",), (f"{masks}/{folders[1].get(s, name)}",))
            for s, name in folders[0].items()
        }
    return {"train": SplitLayout((images,), (masks,))}


def _rank(error: Any) -> tuple[int, bool]:
    """How well an error tells what is wrong: the deeper, and a key that is written wrongly before one that lacks."""
    return len(error["loc"]), error["type"] == "extra_forbidden"


def _sentence(file: Path, error: Any) -> str:
    where = ".".join(
        str(part)
        for part in error["loc"]
        if part != "str" and not str(part).startswith(("list[", "dict[", "literal["))
    )
    if error["type"] == "extra_forbidden":
        every = f"; known: {', '.join(ClassesFile.model_fields)}"
        return f"{file}: unknown key {shown(where)}{known(ClassesFile, error['loc']) or every}."
    if error["type"] == "missing":
        return f"{file}: the key {where!r} is missing."
    return f"{file}: {where}: {error['msg']} (got {shown(error['input'])})."
