"""Invariant: a task is sent paths and descriptions, never open stores or models, and owns its block."""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from c2s_cache import Cache, CacheError
from c2s_cache.writer import BlockWriter
from c2s_pipeline.batch import StoredBlock
from c2s_pipeline.build.block import BlockComputer
from c2s_pipeline.extras import require
from c2s_pipeline.lanes import start_lanes
from c2s_pipeline.memory import peak_memory
from c2s_pipeline.source import ImageSource
from c2s_pipeline.stages.registry import name_of
from c2s_pipeline.teachers.base import Teacher, TeacherSpec
from c2s_pipeline.teachers.registry import load_teacher

PROGRESS_TOPIC = "c2s-rows"


@dataclass(frozen=True)
class BlockTask:
    """What a worker process needs to build any block of a cache.

    `source` may be None if nothing of the data set is missing. `stages` are references `python:module:Class` of
    stages that no package brings. `token` shows that it works for the cache's owner; `lanes` threads compute in
    each process.
    """

    path: Path
    source: ImageSource | None
    spec: TeacherSpec
    device: str
    token: str
    stages: tuple[str, ...] = ()
    lanes: int = 1


@dataclass(frozen=True)
class BlockReport:
    """What became of a block: the stages computed, images through the visual tower, peak bytes."""

    block: int
    stages: tuple[str, ...]
    passes: int
    memory: int


def build_block(task: BlockTask, block: int, ids: list[str]) -> BlockReport:
    """Compute and store all missing stages of a block; runs in a worker. Twice is harmless."""
    report = _reporter()
    for reference in task.stages:
        name_of(reference)
    writer = BlockWriter(task.path, task.token)
    manifest = writer.manifest
    missing = tuple(s for s in writer.missing(block) if not manifest.stage(s).once)
    if not missing:
        report(len(ids))
        return BlockReport(block, (), 0, peak_memory())
    lanes = _lanes(task.lanes)

    def teacher() -> Teacher:
        return _teacher(task.spec, task.device, task.lanes, manifest.teacher.digest)

    computer = BlockComputer(manifest, task.source, teacher, task.device, lanes)
    stored = StoredBlock(Cache(task.path), block, missing)
    first = manifest.block_range(block).start
    result = computer.compute(ids, first, missing, stored, report)
    for stage, arrays in result.stages.items():
        writer.write(stage, block, arrays, result.notes.get(stage))
    return BlockReport(block, missing, result.passes.total(), peak_memory())


_LOADING = threading.Lock()
"""Blocks that are under way in one process share its teacher and its lanes."""


def _teacher(spec: TeacherSpec, device: str, lanes: int, digest: str) -> Teacher:
    with _LOADING:
        return _load_teacher(spec, device, lanes, digest)


@lru_cache(maxsize=1)
def _load_teacher(spec: TeacherSpec, device: str, lanes: int, digest: str) -> Teacher:
    """The teacher of this process, which must be the cache's wherever this process runs. On a CPU it has lanes of its
    own, as many as compute batches: those wait for it, and where there are fewer batches than cores its passes still
    occupy them all."""
    teacher = load_teacher(spec, device, None if device == "cuda" else start_lanes(lanes))
    if (found := teacher.info().digest) != digest:
        raise CacheError(
            f"a worker on {platform.node()} found other weights as {spec.name} ({found[:12]}) than the cache "
            f"is built with ({digest[:12]}).",
            "Put the same weights there.",
        )
    return teacher


def _lanes(count: int) -> ThreadPoolExecutor:
    """The lanes of this process."""
    with _LOADING:
        return _start_lanes(count)


_start_lanes = lru_cache(maxsize=1)(start_lanes)


def _reporter() -> Callable[[int], None]:
    """How a worker reports finished rows to the builder."""
    distributed = require("distributed", "build")
    worker = distributed.get_worker()
    return lambda rows: worker.log_event(PROGRESS_TOPIC, rows)
