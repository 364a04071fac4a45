"""Invariant: one task owns one block; what is finished is known from receipts on disk, never from Dask."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from c2s_cache import C2SError, Cache, CacheError, Manifest
from c2s_cache.errors import of_gpu_memory
from c2s_cache.lock import build_lock
from c2s_cache.receipt import load
from c2s_cache.writer import BlockWriter, check_target, create_cache, existing
from c2s_pipeline.build.dask_cluster import connect, require_scheduler
from c2s_pipeline.build.dispatch import run_all
from c2s_pipeline.build.provenance import record
from c2s_pipeline.build.request import BuildRequest, make_manifest
from c2s_pipeline.build.resources import Progress, Resources, Silent, blocks_under_way, lanes_of
from c2s_pipeline.build.rows import Rows, new_rows, rows_of
from c2s_pipeline.build.task import PROGRESS_TOPIC, BlockReport, BlockTask, build_block
from c2s_pipeline.devices import default_device
from c2s_pipeline.extras import require
from c2s_pipeline.imported import Beside, check_ids
from c2s_pipeline.memory import peak_memory
from c2s_pipeline.source import ImageSource
from c2s_pipeline.stages.base import Once
from c2s_pipeline.stages.registry import imported_stages, recorded_stages
from c2s_pipeline.teachers import registry
from c2s_pipeline.teachers.base import Teacher, TeacherSpec


@dataclass(frozen=True)
class BuildReport:
    """What a build run did.

    `built` rows needed work, `reused` rows did not; `computed` counts the rows computed per stage
    (1 for a stage that is computed once). `passes` images went through the visual tower; `passes_saved` would have,
    had nothing been there. `memory` is the peak resident size of the largest process, in bytes.
    """

    path: Path
    rows: int
    built: int
    reused: int
    seconds: float
    computed: dict[str, int] = field(default_factory=dict)
    passes: int = 0
    passes_saved: int = 0
    memory: int = 0


def build(
    source: ImageSource,
    request: BuildRequest,
    out: Path,
    workers: int | None = None,
    progress: Progress | None = None,
    scheduler: str | None = None,
    update: bool = False,
    append: bool = False,
) -> BuildReport:
    """Build or resume the cache of a data set.

    Args:
        source: the data set split.
        request: what to build.
        out: cache directory; created, resumed, or left alone when complete.
        workers, progress, scheduler: see `Resources`.
        update: change a cache of another request in place, computing only what depends on the change.
        append: let the cache grow by the images that came to the data set since.

    Raises:
        C2SError: see the modules; whatever was committed before stays valid and is reused next time.
    """
    started = time.monotonic()
    resources = Resources(workers, scheduler, progress or Silent())
    out = out.absolute()
    check_target(out)
    require_scheduler(resources.scheduler)
    with machine_errors(out), build_lock(out) as token:
        grows = existing(out) is not None
        # A wrong data folder is reported before the teacher loads.
        rows = rows_of(source, request, out, append) if grows else new_rows(source, request)
        source = imports(source, request, rows)
        teacher, spec = load_teacher(request)
        manifest = make_manifest(source, request, rows.parts, teacher.info())
        once = compute_once(out, request, manifest, teacher, resources)
        changed = create_cache(out, manifest, update)
        if changed:
            resources.progress.change(changed)
        write_once(out, once)
        del teacher  # the workers load their own; two copies would share one GPU's memory
        task = BlockTask(out, source, spec, default_device(), token, imported_stages(manifest))
        ids = rows.blocks(manifest.block_rows)
        return complete(task, ids, resources, tuple(once), started, "build")


def imports(source: ImageSource, request: BuildRequest, rows: Rows) -> ImageSource:
    """The data set with the folders that a request imports.

    Raises:
        ConfigError: one lacks an image.
    """
    for folder in request.folders.values():
        check_ids(folder, chain.from_iterable(rows.ids))
    return Beside(source, request.folders, rows.ids) if request.folders else source


def compute_once(
    out: Path,
    request: BuildRequest,
    manifest: Manifest,
    teacher: Teacher,
    resources: Resources,
    kept: Container[str] = (),
) -> dict[str, Mapping[str, NDArray[Any]]]:
    """Values of the stages that are computed once and that the cache has not yet, by name; those that are `kept` from
    another cache are left out.

    They are computed before anything is written, so that what they refuse leaves no cache.
    """
    found = {}
    for name in (stage.name for stage in manifest.stages if stage.once):
        stored = load(out, name, 0)
        done = stored is not None and stored.fingerprint == manifest.fingerprint(name, 0)
        if not done and name not in kept:
            build = Once(manifest, teacher, partial(resources.progress.once, name))
            found[name] = request.stage(name).compute_once(build)
    return found


def write_once(out: Path, once: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
    """Store what `compute_once` gave."""
    writer = BlockWriter(out)
    for name, arrays in once.items():
        if name in writer.missing(0):
            writer.write(name, 0, arrays)


def complete(
    task: BlockTask,
    ids: Sequence[Sequence[str]],
    resources: Resources,
    once: tuple[str, ...],
    started: float,
    command: str,
) -> BuildReport:
    """Compute all blocks that a cache lacks, and report on the whole run.

    Args:
        task: what the workers are to do; its cache is locked, what is computed once is written.
        ids: image ids of each block.
        resources: where to run.
        once: stages that this run has computed once.
        started: `time.monotonic()` at the start of the command.
        command: name for the provenance file.
    """
    out, writer = task.path, BlockWriter(task.path)
    manifest = writer.manifest
    blocks = [b for b in range(manifest.blocks) if writer.missing(b)]
    pending = sum(len(manifest.block_range(b)) for b in blocks)
    computed = Counter(once)
    resources.progress.start(manifest.rows, manifest.rows - pending)
    done = list(_build_blocks(task, blocks, ids, manifest, resources))
    for block in done:
        computed.update(dict.fromkeys(block.stages, len(manifest.block_range(block.block))))
    passes = sum(block.passes for block in done)
    report = BuildReport(
        path=out,
        rows=manifest.rows,
        built=pending,
        reused=manifest.rows - pending,
        seconds=time.monotonic() - started,
        computed={s: computed[s] for s in manifest.stage_names if s in computed},
        passes=passes,
        passes_saved=passes_of(out) - passes,
        memory=max([peak_memory(), *(block.memory for block in done)]),
    )
    if computed:
        record(
            out,
            command=command,
            seconds=round(report.seconds, 3),
            rows=pending,
            parts=[part.rows for part in manifest.parts],
            stages=report.computed,
            teacher_passes=passes,
            teacher_weights=task.spec.location,
            workers=resources.workers,
            peak_memory_bytes=report.memory,
        )
    return report


def passes_of(path: Path) -> int:
    """Images that a build of this cache from scratch sends through the visual tower."""
    cache = Cache(path)
    passes: dict[str, int] = {}
    for stage in recorded_stages(cache.manifest).values():
        passes |= stage.passes(cache)
    return sum(passes.values())


def load_teacher(request: BuildRequest) -> tuple[Teacher, TeacherSpec]:
    """The teacher of a request, and how a worker loads the same.

    What there is to know of its weights is said on stderr.
    """
    teacher = registry.load_teacher(request.spec, default_device())
    if teacher.notice is not None:
        print(f"note: {teacher.notice}", file=sys.stderr)
    return teacher, teacher.spec


def _build_blocks(
    task: BlockTask,
    blocks: list[int],
    ids: Sequence[Sequence[str]],
    manifest: Manifest,
    resources: Resources,
) -> Iterator[BlockReport]:
    if not blocks:
        return
    distributed = require("distributed", "build")
    count = resources.workers or max(torch.cuda.device_count(), 1)
    task = replace(task, lanes=lanes_of(count))
    under_way = blocks_under_way(manifest, task.lanes)
    cluster = connect(resources.scheduler, min(count, len(blocks)), task.device, under_way)
    with cluster as client:

        def submit(block: int) -> Any:
            return client.submit(build_block, task, block, list(ids[block]), pure=False)

        client.subscribe_topic(
            PROGRESS_TOPIC, lambda event: resources.progress.advance(int(event[1]))
        )
        try:
            yield from run_all(client, submit, blocks, resources.progress.warn)
            client.unsubscribe_topic(PROGRESS_TOPIC)
        except distributed.scheduler.KilledWorker as error:
            raise C2SError(
                f"a worker process died repeatedly while building {task.path}; it may have run out of memory.",
                "Run the same command again to resume, with fewer --workers; or build another cache with a smaller "
                "--batch-size.",
            ) from error
        except OSError as error:
            raise _unwritable(task.path, error) from error


@contextlib.contextmanager
def machine_errors(out: Path) -> Iterator[None]:
    """Tell of a file system that fails, or of a GPU's memory that runs out, in one sentence."""
    try:
        yield
    except OSError as error:
        raise _unwritable(out, error) from error
    except RuntimeError as error:
        if not of_gpu_memory(error):
            raise
        raise C2SError(
            f"GPU memory ran out while building {out}; what was committed is kept.",
            "Free the GPU and run the same command again to resume, or build another cache with a smaller "
            "--batch-size.",
        ) from error


def _unwritable(path: Path, error: OSError) -> C2SError:
    # No file's: connections to worker processes that time out or break are of this kind, too.
    if error.errno is None:
        return C2SError(
            f"the worker processes that build {path} do not answer ({str(error) or type(error).__name__}).",
            "The machine may be very busy. Run the same command again to resume.",
        )
    return CacheError(
        f"{path} cannot be written: {error.strerror or error}.",
        "Free space or fix permissions, then run the same command again to resume.",
    )
