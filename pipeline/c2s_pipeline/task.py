"""Invariant: a task is sent paths and descriptions, never open stores or models, and owns its block."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from c2s_cache import Cache
from c2s_cache.schema import array_specs
from c2s_cache.writer import BlockWriter
from c2s_pipeline.block import BlockComputer, stored_inputs
from c2s_pipeline.extras import require
from c2s_pipeline.kmeans import create_backend
from c2s_pipeline.lanes import start_lanes
from c2s_pipeline.memory import peak_memory
from c2s_pipeline.rows import PIXELS
from c2s_pipeline.source import ImageSource
from c2s_pipeline.teachers.base import Teacher, TeacherSpec
from c2s_pipeline.teachers.registry import load_teacher

PROGRESS_TOPIC = "c2s-rows"


@dataclass(frozen=True)
class Task:
    """What a worker process needs to build any block of a cache.

    `source` may be None if no images and labels are missing.
    `token` shows that it works for the cache's owner; `lanes` threads compute in each process.
    """

    path: Path
    source: ImageSource | None
    spec: TeacherSpec
    device: str
    token: str
    lanes: int = 1


@dataclass(frozen=True)
class Done:
    """What became of a block: the stages computed, images through the visual tower, peak bytes."""

    block: int
    stages: tuple[str, ...]
    passes: int
    memory: int


def build_block(task: Task, block: int, ids: list[str]) -> Done:
    """Compute and store all missing stages of a block; runs in a worker. Twice is harmless."""
    report = _reporter()
    writer = BlockWriter(task.path, task.token)
    manifest = writer.manifest
    missing = tuple(s for s in writer.missing(block) if s != "text")
    if not missing:
        report(len(ids))
        return Done(block, (), 0, peak_memory())
    lanes = _lanes(task.lanes)
    teacher = _teacher(task.spec, task.device, task.lanes) if PIXELS & set(missing) else None
    backend = create_backend(manifest.requests["masks"]["backend"], task.device)
    computer = BlockComputer(manifest, task.source, teacher, backend, lanes)
    there = {spec.path for spec in array_specs(manifest) if spec.stage not in missing}
    stored = Cache(task.path).read(block, stored_inputs(missing) & there)
    first = manifest.block_range(block).start
    result = computer.compute(ids, first, missing, stored, report)
    for stage, arrays in result.stages.items():
        writer.write(stage, block, arrays, result.notes.get(stage))
    return Done(block, missing, result.passes, peak_memory())


_LOADING = threading.Lock()
"""Blocks that are under way in one process share its teacher and its lanes."""


def _teacher(spec: TeacherSpec, device: str, lanes: int) -> Teacher:
    with _LOADING:
        return _load_teacher(spec, device, lanes)


@lru_cache(maxsize=1)
def _load_teacher(spec: TeacherSpec, device: str, lanes: int) -> Teacher:
    """The teacher of this process. On a CPU it has lanes of its own, as many as compute batches: those wait
    for it, and where there are fewer batches than cores its passes still occupy them all."""
    return load_teacher(spec, device, None if device == "cuda" else start_lanes(lanes))


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
