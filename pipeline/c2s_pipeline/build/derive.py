"""Invariant: a derived cache equals, byte for byte, one built from scratch; what it shares is not computed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from c2s_cache import ConfigError, DataError, Manifest, TeacherInfo, open_cache
from c2s_cache.change import change
from c2s_cache.lock import build_lock
from c2s_cache.manifest import USABLE
from c2s_cache.receipt import load
from c2s_cache.writer import BlockWriter, check_target, create_cache
from c2s_pipeline.build.builder import (
    BuildReport,
    complete,
    compute_once,
    load_teacher,
    machine_errors,
    write_once,
)
from c2s_pipeline.build.dask_cluster import require_scheduler
from c2s_pipeline.build.request import BuildRequest, make_manifest, recorded_request
from c2s_pipeline.build.resources import Resources
from c2s_pipeline.build.task import BlockTask
from c2s_pipeline.devices import default_device
from c2s_pipeline.source import ImageSource
from c2s_pipeline.stages.registry import imported_stages, known, recorded_stages, unknown
from c2s_pipeline.teachers.base import Teacher, TeacherSpec
from c2s_pipeline.teachers.recorded import load_recorded, recorded_spec, require_named

TEACHER_FIELDS = (
    *("teacher", "pretrained", "mask_teacher", "mask_pretrained"),
    *("dense_size", "dense_features"),
)


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
    def prompts(self) -> tuple[str, ...]:
        """The data set alone knows them."""
        raise ConfigError(
            "text.clean_names: only the data set knows these names, and a cache is derived without it.",
            "Write them: --set text.prompts=[NAME, NAME, ...]",
        )

    @property
    def labelled(self) -> bool:
        """What label maps it has, the base has."""
        return True

    @property
    def instanced(self) -> bool:
        """What it tells apart, the base does."""
        return True

    @property
    def synonyms(self) -> Mapping[str, tuple[str, ...]]:
        """Of a data set that is not at hand they are not known."""
        return {}

    @property
    def captioned(self) -> bool:
        """What captions say, the base holds."""
        return True

    @property
    def clips(self) -> bool:
        """What its frames are of, the base holds."""
        return True

    @property
    def nouns(self) -> tuple[str, ...]:
        """See `synonyms`."""
        return ()

    @property
    def unseen(self) -> tuple[int, ...]:
        """Ids of the unseen classes."""
        return self.manifest.unseen


def derive(
    base: Path,
    request: BuildRequest,
    out: Path,
    resources: Resources,
    labelled: ImageSource | None = None,
    teacher: str | None = None,
    mask_teacher: str | None = None,
) -> BuildReport:
    """Make a cache that differs from another in some settings, computing only what depends on them.

    Args:
        base: a complete cache, which stays as it is. Finished stages are shared by hard links where
            the file system allows, and copied elsewhere.
        request: `recorded_request` of `base` with other values.
        out: the new cache; resumed if it is there.
        resources: where to run.
        labelled: the data set, if its classes or unseen classes are to change.
        teacher, mask_teacher: as the user names them, not the cache: code is not imported otherwise.

    Raises:
        C2SError: a teacher is code that the user does not name.
        CacheError: `base` is not complete, or `out` holds another cache.
        ConfigError: nothing of `base` could be shared, or a stage of it is not known here or a new one
            comes from the data set.
        DataError: the data set is not the one that `base` was built from.
    """
    started = time.monotonic()
    base, out = base.absolute(), out.absolute()
    if base.resolve() == out.resolve():
        raise ConfigError("a cache cannot be derived into itself.", "Choose another --out.")
    check_target(out)
    require_scheduler(resources.scheduler)
    cache = open_cache(base)
    before = cache.manifest
    ids = [cache.ids(block) for block in range(cache.blocks)]
    if labelled is not None and not _same_images(labelled, before, ids):
        raise DataError(
            f"{before.dataset}/{before.split} is not the data that {base.name} was built from: "
            "files were added, removed or edited."
        )
    if lost := unknown(before):
        raise ConfigError(
            f"{base.name} has stages that nothing here knows, which a derived cache would lose: {', '.join(lost)}.",
            "Install the package that brings them, or name each: --stage python:MODULE:CLASS.",
        )
    if request.limit != before.rows:
        raise ConfigError(
            f"a cache derived from {base.name} keeps its {before.rows} images: limit has no effect.",
            "Build another one with c2s cache build --limit.",
        )
    recorded = recorded_request(before)
    request = _without_idle(recorded, request)
    split = labelled or RecordedSplit(before)
    with machine_errors(out), build_lock(out) as token:
        info, spec, loaded = _teacher(before, recorded, request, teacher, mask_teacher)
        manifest = make_manifest(split, request, before.parts, info, before)
        changed = change(before, manifest)
        if manifest.owners[USABLE] not in changed.kept:
            raise ConfigError(
                f"a cache derived from {base.name} keeps its images, their order and block size.",
                "Build another one with c2s cache build.",
            )
        if labelled is None and (lacking := [n for n in changed.new if known()[n].sourced]):
            options = " ".join(f"--stage {name}" for name in lacking)
            raise ConfigError(
                f"the data set alone has what stage {' and '.join(lacking)} of this cache is to hold, and a cache is "
                "derived without it.",
                f"Run the command that built {base.name} once more, with --update {options}",
            )
        if loaded is None and _asks_teacher(out, manifest, changed.new):
            loaded = load_recorded(before, spec)
        once = {}
        if loaded is not None:
            once = compute_once(out, request, manifest, loaded, resources, changed.kept)
        create_cache(out, manifest)
        resources.progress.change(changed)
        writer = BlockWriter(out)
        for block in range(manifest.blocks):
            for stage in set(changed.kept) & set(writer.missing(block)):
                writer.adopt(cache.path, cache.receipts[stage, block])
        write_once(out, once)
        del loaded  # the workers load their own
        task = BlockTask(out, labelled, spec, default_device(), token, imported_stages(manifest))
        return complete(task, ids, resources, tuple(once), started, "derive")


def _same_images(source: ImageSource, before: Manifest, ids: Sequence[Sequence[str]]) -> bool:
    """Whether the images of a cache, by block, are in the data set as they were."""
    for number, part in enumerate(before.parts):
        of_part = sorted(i for block in before.blocks_of(number) for i in ids[block])
        if not set(of_part) <= set(source.ids) or source.identity(of_part) != part.source:
            return False
    return True


def _asks_teacher(out: Path, manifest: Manifest, new: tuple[str, ...]) -> bool:
    """Whether what is still to be computed needs the teacher."""
    blocks = range(manifest.blocks)
    lacking = [
        n for n in new if any(load(out, n, b) is None for b in blocks if n in manifest.stages_of(b))
    ]
    stages = recorded_stages(manifest)
    return any(stages[name].asks_teacher(manifest, lacking) for name in lacking)


def _without_idle(recorded: BuildRequest, request: BuildRequest) -> BuildRequest:
    """The request without recorded settings that mean nothing beside the new ones, such as templates beside imported
    rows."""
    changed = {}
    for name, stage in known().items():
        settings, before = getattr(request, name, None), getattr(recorded, name, None)
        if settings is None or before is None:
            continue
        default = stage.Settings()
        stale = [k for k in settings.idle() if getattr(settings, k) == getattr(before, k)]
        changed[name] = settings.model_copy(update={k: getattr(default, k) for k in stale})
    return request.model_copy(update=changed)


def _teacher(
    before: Manifest,
    recorded: BuildRequest,
    request: BuildRequest,
    teacher: str | None,
    mask_teacher: str | None,
) -> tuple[TeacherInfo, TeacherSpec, Teacher | None]:
    """Facts about the teacher, how workers load it, and itself if it had to be loaded to know."""
    if all(getattr(request, f) == getattr(recorded, f) for f in TEACHER_FIELDS):
        spec = recorded_spec(before, teacher, None, mask_teacher)
        return before.teacher, replace(spec, precision=request.precision), None
    require_named(before.teacher, teacher)
    if before.teacher.mask_teacher is not None:
        require_named(before.teacher.mask_teacher, mask_teacher)
    found, spec = load_teacher(request)
    return found.info(), spec, found
