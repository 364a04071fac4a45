"""Invariant: one task owns one block; what is finished is known from receipts on disk, never from Dask."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from c2s_cache import C2SError, CacheError, ConfigError, Manifest
from c2s_cache.writer import BlockWriter, build_lock, create_cache
from c2s_pipeline.block import BlockComputer
from c2s_pipeline.extras import require
from c2s_pipeline.imported_text import TEMPLATE_PAIR, check_order, load_embeddings
from c2s_pipeline.kmeans import create_backend
from c2s_pipeline.provenance import record
from c2s_pipeline.request import BuildRequest, make_manifest, row_order
from c2s_pipeline.source import ImageSource
from c2s_pipeline.teacher import Teacher, TeacherSpec, default_pretrained
from c2s_pipeline.text import class_embeddings

PROGRESS_TOPIC = "c2s-rows"
PRE_SPAWN = "distributed.nanny.pre-spawn-environ"


@dataclass(frozen=True)
class BuildReport:
    """What a build run did: `built` and `reused` rows, seconds, and the quarantined rows of the cache."""

    path: Path
    rows: int
    built: int
    reused: int
    seconds: float


class Progress(Protocol):
    """Receives what a build does."""

    def start(self, total: int, done: int) -> None:
        """The build has `total` rows, of which `done` are already in the cache."""

    def advance(self, rows: int) -> None:
        """`rows` more rows were computed."""


class _Silent:
    def start(self, total: int, done: int) -> None:
        pass

    def advance(self, rows: int) -> None:
        pass


@dataclass(frozen=True)
class _Task:
    """What a worker needs to build a block: paths and descriptions, never open stores or models."""

    path: Path
    source: ImageSource
    spec: TeacherSpec
    device: str
    batch_size: int
    threads: int


def build(
    source: ImageSource,
    request: BuildRequest,
    out: Path,
    workers: int | None = None,
    progress: Progress | None = None,
    scheduler: str | None = None,
) -> BuildReport:
    """Build or resume the cache of a data set.

    Args:
        source: the data set split.
        request: what to build.
        out: cache directory; created, resumed, or left alone when complete.
        workers: worker processes; default one per GPU, else one that uses all cores.
        progress: receives row counts.
        scheduler: address of a running Dask scheduler to use instead of a local cluster; its workers
            must see `out` and the data set under the same paths.

    Raises:
        C2SError: see the modules; whatever was committed before stays valid and is reused next time.
    """
    started = time.monotonic()
    progress = progress or _Silent()
    out = out.absolute()
    order = row_order(source, request)  # a wrong data folder is reported before the teacher loads
    with build_lock(out), _disk_errors(out):
        teacher, spec = load_teacher(request)
        backend = request.backend
        create_backend(backend)  # a missing library is reported before any work is done
        manifest = make_manifest(source, request, teacher.info(), backend)
        imported = _imported_text(out, request, manifest, teacher)
        create_cache(out, manifest)
        writer = BlockWriter(out)
        todo = [b for b in range(manifest.blocks) if writer.missing(b)]
        pending = sum(len(manifest.block_range(b)) for b in todo)
        progress.start(manifest.rows, manifest.rows - pending)
        if todo:
            if "text" in writer.missing(0):
                text = manifest.requests["text"]
                if imported is None:
                    imported = class_embeddings(teacher, text["names"], text["templates"])
                writer.write("text", 0, {"text/embeddings": imported})
            count = workers or max(torch.cuda.device_count(), 1)
            threads = max((os.cpu_count() or 1) // count, 1)
            task = _Task(out, source, spec, teacher.device.type, request.batch_size, threads)
            del teacher  # the workers load their own; two copies would share one GPU's memory
            blocks = [b for b in todo if any(s != "text" for s in writer.missing(b))]
            cluster = _connect(scheduler, min(count, max(len(blocks), 1)), task)
            _run(task, blocks, order, manifest, cluster, progress)
        seconds = time.monotonic() - started
        if todo:
            record(out, seconds=round(seconds, 3), rows=pending, workers=workers, command="build")
    return BuildReport(out, manifest.rows, pending, manifest.rows - pending, seconds)


def _imported_text(
    out: Path, request: BuildRequest, manifest: Manifest, teacher: Teacher
) -> NDArray[np.float32] | None:
    """Class embeddings from the file that the request names, float32 [C, D]; None if it names none.

    Before a cache comes to be, their order is checked against the teacher's own.
    """
    if request.text_embeddings is None:
        return None
    rows = load_embeddings(request.text_embeddings, manifest.classes, teacher.dim)
    if not (out / "zarr.json").exists():
        names = request.prompts or manifest.classes
        own, again = (class_embeddings(teacher, names, [t]) for t in TEMPLATE_PAIR)
        check_order(rows, own, again, manifest.classes, request.text_embeddings)
    return rows


def load_teacher(request: BuildRequest) -> tuple[Teacher, TeacherSpec]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pretrained = request.pretrained or default_pretrained(request.teacher)
    spec = TeacherSpec(
        request.teacher,
        pretrained,
        request.dense_size,
        request.dense_features,
        request.precision,
    )
    teacher = Teacher(spec, device)
    return teacher, replace(spec, dense_size=teacher.dense_size)


def _run(
    task: _Task,
    blocks: list[int],
    order: list[str],
    manifest: Manifest,
    cluster: AbstractContextManager[Any],
    progress: Progress,
) -> None:
    if not blocks:
        return
    distributed = require("distributed", "build")
    with cluster as client:
        client.subscribe_topic(PROGRESS_TOPIC, lambda event: progress.advance(int(event[1])))
        try:
            _submit_all(distributed, client, task, blocks, order, manifest)
            client.unsubscribe_topic(PROGRESS_TOPIC)
        except distributed.scheduler.KilledWorker as error:
            raise C2SError(
                f"a worker process died repeatedly while building {task.path}; it may have run out of memory.",
                "Run the same command again to resume, with a smaller --batch-size or fewer --workers.",
            ) from error
        except OSError as error:
            raise CacheError(
                f"{task.path} cannot be written: {error.strerror or error}.",
                "Free space or fix permissions, then run the same command again to resume.",
            ) from error


def _submit_all(
    distributed: Any,
    client: Any,
    task: _Task,
    blocks: list[int],
    order: list[str],
    manifest: Manifest,
) -> None:
    """Build the blocks, two per worker under way at a time; raises the first failure."""
    waiting = iter(blocks)

    def submit(count: int) -> list[Any]:
        return [
            client.submit(build_block, task, block, _ids(order, manifest, block), pure=False)
            for block in itertools.islice(waiting, count)
        ]

    alive = set(submit(2 * max(len(client.ncores()), 1)))
    completed = distributed.as_completed(alive)
    try:
        for future in completed:
            alive.discard(future)
            future.result()
            following = submit(1)
            alive.update(following)
            completed.update(following)
    except Exception:
        # Whatever failed, blocks under way must end before the lock passes to the next builder.
        if alive:
            distributed.wait(list(alive))
        raise


def _ids(order: list[str], manifest: Manifest, block: int) -> list[str]:
    rows = manifest.block_range(block)
    return order[rows.start : rows.stop]


@contextlib.contextmanager
def _connect(scheduler: str | None, workers: int, task: _Task) -> Iterator[Any]:
    """A client of the given scheduler, or of a local cluster that ends with the build.

    The local cluster has one single-threaded process per worker, with one GPU each where there are GPUs.
    """
    distributed = require("distributed", "build")
    if scheduler is not None:
        try:
            client = distributed.Client(scheduler, timeout="10s")
        except OSError as error:
            raise ConfigError(f"no Dask scheduler answers at {scheduler}.") from error
        with client:
            yield client
        return
    if task.device == "cuda":
        dask_cuda = require("dask_cuda", "gpu")
        cluster = partial(dask_cuda.LocalCUDACluster)
    else:
        cluster = partial(distributed.LocalCluster, processes=True)
    with (
        require("dask", "build").config.set({PRE_SPAWN: _environment(task.threads)}),
        cluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=0,
            dashboard_address=":0",
            silence_logs=logging.CRITICAL,
        ) as local,
        distributed.Client(local) as client,
    ):
        yield client


def _environment(threads: int) -> dict[str, str]:
    """Environment of a worker process, in place of Dask's own, which suits many small workers.

    Dask gives each worker one arithmetic thread, and a trim threshold that, once set, keeps glibc from
    raising its mmap threshold: every large tensor is then mapped and faulted in anew. Together they
    cost a small teacher on a CPU more than half of its rate.
    """
    pools = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    keep = {"MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}
    return {**keep, **dict.fromkeys(pools, str(threads))}


def build_block(task: _Task, block: int, ids: list[str]) -> int:
    """Build all missing stages of a block; runs in a worker. Running it twice is harmless.

    Returns:
        The number of rows of the block.
    """
    report = _reporter()
    writer = BlockWriter(task.path)
    missing = writer.missing(block)
    if not missing:
        report(len(ids))
        return len(ids)
    torch.set_num_threads(task.threads)
    teacher = _worker_teacher(task.spec, task.device)
    backend = create_backend(writer.manifest.requests["masks"]["backend"], task.device)
    computer = BlockComputer(
        writer.manifest, task.source, teacher, backend, task.batch_size, max(task.threads, 2)
    )
    result = computer.compute(ids, writer.manifest.block_range(block).start, report)
    for stage, arrays in result.stages.items():
        if stage in missing:
            notes = {"quarantined": result.quarantined} if stage == "images" else {}
            writer.write(stage, block, arrays, notes)
    return len(ids)


@lru_cache(maxsize=1)
def _worker_teacher(spec: TeacherSpec, device: str) -> Teacher:
    return Teacher(spec, device)


def _reporter() -> Callable[[int], None]:
    """How a worker reports finished rows to the builder."""
    distributed = require("distributed", "build")
    worker = distributed.get_worker()
    return lambda rows: worker.log_event(PROGRESS_TOPIC, rows)


@contextlib.contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CacheError(
            f"{out} cannot be written: {error.strerror or error}.",
            "Free space or fix permissions, then run the same command again to resume.",
        ) from error
