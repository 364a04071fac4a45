"""Invariant: files appear whole or not at all, originals are never touched, lists come last."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from c2s.datasets import coco_panoptic, context, context_full, vipseg, voc
from c2s.datasets.check import in_threads
from c2s.datasets.context_json import read_annotations
from c2s.datasets.folder import FolderSplit, NotThere
from c2s.datasets.panoptic_json import read_panoptic
from c2s.datasets.registry import Dataset
from c2s_cache import ConfigError, DataError
from c2s_cache.text_file import read_text

SBD_FOLDERS = (
    "benchmark_RELEASE/dataset",
    "../benchmark_RELEASE/dataset",
    "../../benchmark_RELEASE/dataset",
    "../VOCaug/dataset",
)
"""Where the Semantic Boundaries Dataset may lie, from VOCdevkit/VOC2012."""


@dataclass(frozen=True)
class LabelJob:
    """One label map to write: `values()` gives it, uint8 or uint16 [H, W]."""

    target: Path
    values: Callable[[], NDArray[np.integer]]


@dataclass(frozen=True)
class Preparation:
    """What is to be written for a data set, and what is there already.

    Attributes:
        jobs: label maps, in a fixed order, those that exist left out.
        lists: lists of image ids to write after them, by file.
        present: label maps that exist.
    """

    jobs: list[LabelJob]
    lists: Mapping[Path, Sequence[str]] = field(default_factory=dict)
    present: int = 0

    def run(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Write everything; interrupted at any time, the next run takes up what is missing.

        Raises:
            DataError: a source cannot be read, or the disk refuses.
        """
        try:
            threads = min(os.cpu_count() or 1, 8)
            for done, _ in enumerate(in_threads(_write_labels, self.jobs, threads), 1):
                if progress is not None:
                    progress(done, len(self.jobs))
            for file, ids in self.lists.items():
                if not file.exists():
                    file.parent.mkdir(parents=True, exist_ok=True)
                    part = _part(file)
                    part.write_text("".join(f"{i}\n" for i in ids), encoding="utf-8")
                    part.replace(file)
        except OSError as error:
            raise DataError(
                f"{error.filename} cannot be written ({error.strerror}).",
                "Free space or fix permissions, then run the same command again to resume.",
            ) from error


def plan_preparation(dataset: Dataset) -> Preparation:
    """What is left to write of a data set's label maps.

    Raises:
        ConfigError: the data set ships its label maps as they are read.
        DataError: the sources are not there.
    """
    planners = {
        "voc": _voc,
        "coco-stuff": _preferred_form,
        "context": _context,
        "context-bg": _context,
        "cityscapes": _preferred_form,
        "coco-panoptic": _panoptic,
        "context-459": _all_of_context,
        "vipseg": _frames,
    }
    if dataset.name not in planners:
        raise ConfigError(
            f"{dataset.name} needs no preparation: its label maps are read as they are.",
            f"Known: {', '.join(planners)}.",
        )
    dataset.folder_split("train")  # says so if nothing names a folder
    return planners[dataset.name](dataset)


def _preferred_form(dataset: Dataset) -> Preparation:
    """Label maps of class ids (the descriptor's first encoding) beside those of another."""
    jobs: list[LabelJob] = []
    present = 0
    for split in _splits_there(dataset):
        encoding = split.descriptor.encodings[0]
        for image_id in split.ids:
            source, found = split.label_file(image_id)
            if found is encoding:
                present += 1
                continue
            target = source.with_name(source.name.removesuffix(found.suffix) + encoding.suffix)
            jobs.append(LabelJob(target, partial(split.labels, image_id)))
    return Preparation(jobs, present=present)


def _splits_there(dataset: Dataset) -> Iterator[FolderSplit]:
    splits = [dataset.folder_split(name) for name in dataset.splits]
    there = []
    missing: NotThere | None = None
    for split in splits:
        try:
            _ = split.listed
        except NotThere as error:
            missing = error
        else:
            there.append(split)
    if not there and missing is not None:
        raise missing
    yield from there


def _context(dataset: Dataset) -> Preparation:
    """60-class maps and split lists from the annotations of the Detail API."""
    root = _root(dataset)
    lists = {root / context.LISTS / f"{split}.txt": split for split in context.SPLITS}
    if all(file.is_file() for file in lists):
        return Preparation([], present=sum(1 for _ in (root / context.FOLDER).glob("*.png")))
    source = root / context.SOURCE
    if not source.is_file():
        raise DataError(f"there is no {source}.", context.DESCRIPTOR.remedy)
    annotations = read_annotations(source)
    jobs, present = [], 0
    for image_id in sorted(annotations.photos):
        target = root / context.FOLDER / f"{image_id}.png"
        if target.exists():
            present += 1
        else:
            jobs.append(LabelJob(target, partial(annotations.label_map, image_id)))
    ids = {file: annotations.split_ids(split) for file, split in lists.items()}
    return Preparation(jobs, ids, present)


def _panoptic(dataset: Dataset) -> Preparation:
    """Label maps and numbered segments of the splits whose annotations are there."""
    root = _root(dataset)
    there = [s for s in dataset.splits if (root / f"annotations/panoptic_{s}2017.json").is_file()]
    if not there:
        what = f"there is no {root}/annotations/panoptic_val2017.json, nor that of train."
        raise DataError(what, coco_panoptic.DESCRIPTOR.remedy)
    jobs, present = list[LabelJob](), 0
    for split in there:
        name = f"panoptic_{split}2017"
        source = read_panoptic(root / f"annotations/{name}.json", root / f"annotations/{name}")
        for image_id in sorted(source.segments):
            pairs = (
                (coco_panoptic.LABELS, source.label_map),
                (coco_panoptic.INSTANCES, source.instance_map),
            )
            for folder, draw in pairs:
                target = root / folder / f"{split}2017/{image_id}.png"
                if target.exists():
                    present += 1
                else:
                    jobs.append(LabelJob(target, partial(draw, image_id)))
    return Preparation(jobs, present=present)


def _all_of_context(dataset: Dataset) -> Preparation:
    """Label maps of 459 classes from MATLAB files; the lists are those of the data set `context`."""
    root = _root(dataset)
    files = sorted((root / context_full.SOURCE).glob("*.mat"))
    folder = root / context_full.FOLDER
    have = {f.stem for f in folder.glob("*.png")} if folder.is_dir() else set()
    if not files and not have:
        what = f"there are no MATLAB files in {root / context_full.SOURCE}."
        raise DataError(what, context_full.DESCRIPTOR.remedy)
    jobs = [
        LabelJob(folder / f"{f.stem}.png", partial(_label_map, f))
        for f in files
        if f.stem not in have
    ]
    return Preparation(jobs, present=len(have))


def _label_map(file: Path) -> NDArray[np.uint16]:
    """What LabelMap of a MATLAB file of PASCAL Context says: uint16 [H, W]."""
    from scipy.io import loadmat

    try:
        values = np.asarray(loadmat(str(file))["LabelMap"]).astype(np.uint16)
    except Exception as error:  # damaged files end in many ways, some of them of scipy's own
        raise DataError(f"{file} is damaged or has no LabelMap ({error}).") from error
    if values.ndim != 2:
        raise DataError(f"{file} has a LabelMap of shape {values.shape}, expected [H, W].")
    return values


def _frames(dataset: Dataset) -> Preparation:
    """Lists of the frames of each split, from its list of videos."""
    root = _root(dataset)
    lists: dict[Path, Sequence[str]] = {}
    for split in dataset.splits:
        target = root / vipseg.LISTS / f"{split}.txt"
        if target.exists():
            continue
        videos = root / vipseg.VIDEOS.format(split=split)
        if not videos.is_file():
            raise DataError(f"there is no {videos}.", vipseg.DESCRIPTOR.remedy)
        masks = root / vipseg.MASKS
        lists[target] = [
            f"{video}/{mask.stem}"
            for video in sorted(set(read_text(videos, "the list").split()))
            for mask in sorted((masks / video).glob("*.png"))
        ]
    return Preparation([], lists)


def _voc(dataset: Dataset) -> Preparation:
    """Augmented masks from the Semantic Boundaries Dataset, and the list of the augmented training set.

    trainaug = (VOC's train + all of the Semantic Boundaries Dataset) - VOC's val: 10,582 images.
    """
    root = _root(dataset)
    folder = root / voc.FOLDERS[1]
    have = {f.stem for f in folder.glob("*.png")} if folder.is_dir() else set()
    places = [(root / place / "cls").resolve() for place in SBD_FOLDERS]
    sources = next((p for p in places if p.is_dir()), None)
    files = {f.stem: f for f in sorted(sources.glob("*.mat"))} if sources else {}
    if not have and not files:
        raise DataError(
            f"there are neither augmented masks in {folder} nor the Semantic Boundaries Dataset in "
            f"{places[2]}.",
            f"Unpack benchmark.tgz beside VOCdevkit. {voc.DESCRIPTOR.remedy}",
        )
    own = _listed(root / voc.LISTS / "train.txt")
    held_out = _listed(root / voc.LISTS / "val.txt")
    wanted = sorted(({*files} | have | own) - held_out)
    jobs = [
        LabelJob(folder / f"{i}.png", partial(_boundaries_labels, files[i]))
        for i in wanted
        if i in files and i not in have
    ]
    target = root / voc.LISTS / "trainaug.txt"
    lists = {} if target.exists() else {target: wanted}
    return Preparation(jobs, lists, len(have))


def _boundaries_labels(file: Path) -> NDArray[np.uint8]:
    """Label map uint8 [H, W], 0 = background, from a file of the Semantic Boundaries Dataset."""
    from c2s_pipeline.extras import require

    scipy_io = require("scipy.io", "build")
    try:
        content = scipy_io.loadmat(str(file), squeeze_me=True)
        values: NDArray[np.uint8] = np.asarray(content["GTcls"]["Segmentation"].item(), np.uint8)
    except Exception as error:  # damaged files end in many ways, some of them of scipy's own
        raise DataError(f"{file} is damaged or no class annotation ({error}).") from error
    if values.ndim != 2:
        raise DataError(f"{file} is no class annotation: its map has shape {values.shape}.")
    return values


def _root(dataset: Dataset) -> Path:
    return dataset.folder_split("train").root


def _listed(file: Path) -> set[str]:
    if not file.is_file():
        raise DataError(f"there is no {file}.", voc.DESCRIPTOR.remedy)
    return set(read_text(file, "the list").split())


def _write_labels(job: LabelJob) -> None:
    """Write a label map beside its place, then move it there."""
    values = job.values()
    job.target.parent.mkdir(parents=True, exist_ok=True)
    part = _part(job.target)
    try:
        Image.fromarray(values).save(part, "PNG")
        part.replace(job.target)
    finally:
        part.unlink(missing_ok=True)


def _part(file: Path) -> Path:
    return file.with_name(f".{file.name}.part")
