"""Invariant: a derived cache equals, byte for byte, one built from scratch; what it shares is not computed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from c2s_cache import ConfigError, DataError, Manifest, TeacherInfo, open_cache
from c2s_cache.augment import AugmentConfig
from c2s_cache.change import change
from c2s_cache.lock import build_lock
from c2s_cache.writer import BlockWriter, check_target, create_cache
from c2s_pipeline.build import (
    BuildReport,
    complete,
    imported_text,
    load_teacher,
    machine_errors,
    write_text,
)
from c2s_pipeline.devices import default_device
from c2s_pipeline.machine import Machine
from c2s_pipeline.recorded import recorded_request
from c2s_pipeline.request import BuildRequest, make_manifest
from c2s_pipeline.rows import PIXELS
from c2s_pipeline.source import ImageSource, SplitInfo
from c2s_pipeline.task import Task
from c2s_pipeline.teachers.base import Teacher, TeacherSpec
from c2s_pipeline.teachers.recorded import load_recorded, recorded_spec

TEACHER_FIELDS = ("teacher", "pretrained", "dense_size", "dense_features")
TEXT_FIELDS = ("prompts", "templates", "text_embeddings")


@dataclass(frozen=True)
class RecordedSplit:
    """What a cache recorded of the split that it was built from: `SplitInfo` without the data set."""

    manifest: Manifest

    @property
    def name(self) -> str:
        """Data set name."""
        return self.manifest.dataset

    @property
    def split(self) -> str:
        """Split name."""
        return self.manifest.split

    @property
    def classes(self) -> tuple[str, ...]:
        """All class names in id order."""
        return self.manifest.classes

    @property
    def unseen(self) -> tuple[int, ...]:
        """Ids of the unseen classes."""
        return self.manifest.unseen

    def identity(self) -> dict[str, Any]:
        """The facts that the data set had when the cache was built."""
        recorded: dict[str, Any] = self.manifest.requests["images"]["source"]
        return recorded


def derive(
    base: Path,
    request: BuildRequest,
    out: Path,
    machine: Machine,
    labelled: ImageSource | None = None,
) -> BuildReport:
    """Make a cache that differs from another in some settings, computing only what depends on them.

    Args:
        base: a complete cache, which stays as it is. Finished stages are shared by hard links where
            the file system allows, and copied elsewhere.
        request: `recorded_request` of `base` with other values.
        out: the new cache; resumed if it is there.
        machine: where to run.
        labelled: the data set, if its classes or unseen classes are to change.

    Raises:
        CacheError: `base` is not complete, or `out` holds another cache.
        ConfigError: nothing of `base` could be shared.
        DataError: the data set is not the one that `base` was built from.
    """
    started = time.monotonic()
    base, out = base.absolute(), out.absolute()
    if base.resolve() == out.resolve():
        raise ConfigError("a cache cannot be derived into itself.", "Choose another --out.")
    check_target(out)
    cache = open_cache(base)
    before = cache.manifest
    if labelled is not None and labelled.identity() != before.requests["images"]["source"]:
        raise DataError(
            f"{before.dataset}/{before.split} is not the data that {base.name} was built from: "
            "files were added, removed or edited."
        )
    if request.limit != before.rows:
        raise ConfigError(
            f"a cache derived from {base.name} keeps its {before.rows} images: limit has no effect.",
            "Build another one with c2s cache build --limit.",
        )
    request = _without_replaced(before, request)
    order = [image_id for b in range(cache.blocks) for image_id in cache.ids(b)]
    split = labelled or RecordedSplit(before)
    with machine_errors(out), build_lock(out) as token:
        info, spec, teacher = _teacher(before, request)
        manifest = _manifest(before, split, request, order, info)
        changed = change(before, manifest)
        if "images" not in changed.kept:
            raise ConfigError(
                f"a cache derived from {base.name} keeps its images, their order and block size.",
                "Build another one with c2s cache build.",
            )
        imported = None
        if request.text_embeddings is not None:
            teacher = teacher or load_recorded(before, spec)
            imported = imported_text(out, request, manifest, teacher)
        create_cache(out, manifest)
        machine.progress.change(changed)
        writer = BlockWriter(out)
        for block in range(manifest.blocks):
            for stage in set(changed.kept) & set(writer.missing(block)):
                writer.adopt(cache.path, cache.receipts[stage, block])
        missing = {s for b in range(manifest.blocks) for s in writer.missing(b)}
        if teacher is None and missing & (PIXELS | {"text"}):
            teacher = load_recorded(before, spec)
        embedded = write_text(out, teacher, machine, imported) if teacher is not None else 0
        del teacher  # the workers load their own
        task = Task(out, labelled, spec, default_device(), token)
        return complete(task, order, machine, embedded, started, "derive")


def _without_replaced(before: Manifest, request: BuildRequest) -> BuildRequest:
    """The request without recorded values that mean nothing beside the new ones: names and sentences where
    imported rows come in their place, the drawing of views where there is one."""
    recorded = recorded_request(before)
    replaced: dict[str, Any] = {}
    if request.text_embeddings is not None:
        replaced |= {"templates": "single", "prompts": None}
    if request.views == 1:
        replaced |= {"augment": AugmentConfig()}
    same = {k for k in replaced if getattr(request, k) == getattr(recorded, k)}
    return request.model_copy(update={k: v for k, v in replaced.items() if k in same})


def _teacher(
    before: Manifest, request: BuildRequest
) -> tuple[TeacherInfo, TeacherSpec, Teacher | None]:
    """Facts about the teacher, how workers load it, and itself if it had to be loaded to know."""
    recorded = recorded_request(before)
    if all(getattr(request, f) == getattr(recorded, f) for f in TEACHER_FIELDS):
        return before.teacher, replace(recorded_spec(before), precision=request.precision), None
    teacher, spec = load_teacher(request)
    return teacher.info(), spec, teacher


def _manifest(
    before: Manifest,
    split: SplitInfo,
    request: BuildRequest,
    order: Sequence[str],
    teacher: TeacherInfo,
) -> Manifest:
    """The manifest of the derived cache; imported class embeddings stay unless others are asked for."""
    manifest = make_manifest(split, request, order, teacher)
    recorded = recorded_request(before)
    same_text = all(getattr(request, f) == getattr(recorded, f) for f in TEXT_FIELDS)
    if not (same_text and "imported" in before.requests["text"]):
        return manifest
    requests = {**manifest.requests, "text": before.requests["text"]}
    return manifest.model_copy(update={"requests": requests})
