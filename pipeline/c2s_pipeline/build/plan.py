"""Invariant: what a build will cost is a trial build of some of its images, scaled; nothing is assumed."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from c2s_cache import C2SError, Cache
from c2s_cache.writer import BlockWriter, create_cache
from c2s_pipeline.batch import StoredBlock
from c2s_pipeline.build.block import BlockComputer, BlockResult, batch_rows
from c2s_pipeline.build.builder import load_teacher
from c2s_pipeline.build.request import BuildRequest, make_manifest, row_order
from c2s_pipeline.build.resources import blocks_under_way, lanes_of
from c2s_pipeline.extras import require
from c2s_pipeline.memory import peak_memory
from c2s_pipeline.source import ImageSource
from c2s_pipeline.stages.base import Once
from c2s_pipeline.teachers.base import Teacher

GIB = 2**30
COPIES = 3
"""Of a block's arrays that a worker holds while it writes them: computed, as stored, and read back."""


class DoesNotFit(C2SError):
    """A build needs more memory or disk than there is."""


@dataclass(frozen=True)
class StagePlan:
    """What one stage of the whole build will cost.

    `hours` of one worker that does one thing after another (a build overlaps decoding, teacher and
    writing); `bytes` on disk; `passes` through the teacher's visual tower.
    """

    stage: str
    hours: float
    bytes: int
    passes: int


@dataclass(frozen=True)
class Plan:
    """What a build will cost on this machine.

    `images` and `sampled` ones; `stages` in the order they are computed; `memory` is the peak of one
    worker in bytes, `gpu_memory` the same on its device (0 without one); `workers` how many there are by
    default.
    """

    images: int
    sampled: int
    stages: tuple[StagePlan, ...]
    memory: int
    gpu_memory: int
    workers: int

    @property
    def hours(self) -> float:
        """Of the whole build."""
        return sum(stage.hours for stage in self.stages) / self.workers

    @property
    def bytes(self) -> int:
        """Of the whole cache on disk."""
        return sum(stage.bytes for stage in self.stages)

    def check(self, out: Path) -> None:
        """Refuse a build that does not fit.

        Args:
            out: where the cache is to be.

        Raises:
            DoesNotFit: names what is needed, the most of it, and what there is.
        """
        place = out.absolute()
        while not place.exists():
            place = place.parent
        free = shutil.disk_usage(place).free
        if self.bytes > free:
            worst = max(self.stages, key=lambda stage: stage.bytes)
            raise DoesNotFit(
                f"The cache would take {_gib(self.bytes)}, {_gib(worst.bytes)} of it for {worst.stage}, "
                f"but {place} has {_gib(free)} free.",
                "Choose another --out, a smaller --dense tier or fewer --views.",
            )
        available = require("psutil", "build").virtual_memory().available
        if self.memory * self.workers > available:
            raise DoesNotFit(
                f"The build would hold {_gib(self.memory * self.workers)} of memory, {_gib(self.memory)} "
                f"in each of {self.workers} workers, but {_gib(available)} are available.",
                "Choose a smaller --batch-size or --block-rows, or fewer --workers.",
            )


def plan_build(
    source: ImageSource,
    request: BuildRequest,
    sample: int,
    workers: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> Plan:
    """Build a few images into a temporary folder, and scale what that cost.

    Args:
        source: the data set split.
        request: what is to be built.
        sample: number of images to try, the first of the cache's order.
        workers: worker processes; None: one per GPU, else one.
        advance: told of images that were tried.

    Raises:
        C2SError: as for a build.
    """
    require("psutil", "build")  # before the trial, for what follows it
    order = row_order(source, request)
    ids = order[:sample]
    teacher, _ = load_teacher(request)
    whole = make_manifest(source, request, order, teacher.info())
    few = request.model_copy(update={"block_rows": len(ids)})
    manifest = make_manifest(source, few, ids, teacher.info())
    side = teacher.image_size
    teacher.embed_images(
        np.zeros((1, side, side, 3), np.uint8)
    )  # the first pass pays for much else
    scale = len(order) / len(ids)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trial.zarr"
        create_cache(path, manifest)
        trial = _tried(path, source, teacher, ids, advance)
    costs = []
    for name in manifest.stage_names:
        if name in trial.result.stages:
            hours = scale * (trial.result.seconds[name] + trial.writing[name]) / 3600
            passes = round(scale * trial.result.passes[name])
            costs.append(StagePlan(name, hours, round(scale * trial.bytes[name]), passes))
        else:
            stage = request.stage(name)
            seconds, size = stage.project_once(Once(manifest, teacher, lambda done, total: None))
            costs.append(StagePlan(name, seconds / 3600, size, 0))
    count = workers or max(torch.cuda.device_count(), 1)
    lanes, block = lanes_of(count), min(request.block_rows, len(order))
    held = COPIES * block  # and meanwhile those of the other blocks under way
    held += min((blocks_under_way(whole, lanes) - 1) * block, len(order) - block)
    arrays = max(held - COPIES * len(ids), 0) * trial.held // len(ids)
    at_once = min(lanes * min(batch_rows(whole), block), len(order))
    pixels = max(at_once - len(ids), 0) * trial.pixels // len(ids)
    return Plan(
        images=len(order),
        sampled=len(ids),
        stages=tuple(costs),
        memory=peak_memory() + arrays + pixels,
        gpu_memory=torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
        workers=count,
    )


@dataclass(frozen=True)
class _Trial:
    """One block, computed and written in this process by what workers call: what was computed, and, by stage, seconds
    of writing and bytes on disk."""

    result: BlockResult
    writing: dict[str, float]
    bytes: dict[str, int]

    @property
    def held(self) -> int:
        """Bytes of its arrays."""
        stages = self.result.stages.values()
        return sum(array.nbytes for arrays in stages for array in arrays.values())

    @property
    def pixels(self) -> int:
        """Bytes of the images that its batches held for the teacher, each stacked once more."""
        return 2 * self.result.shown


def _tried(
    path: Path,
    source: ImageSource,
    teacher: Teacher,
    ids: list[str],
    advance: Callable[[int], None] | None,
) -> _Trial:
    writer = BlockWriter(path)
    manifest = writer.manifest
    missing = [name for name in writer.missing(0) if not manifest.stage(name).once]
    computer = BlockComputer(manifest, source, lambda: teacher, teacher.device.type)
    stored = StoredBlock(Cache(path), 0, missing)
    result = computer.compute(ids, 0, missing, stored, advance)
    writing, size = {}, {}
    for name, arrays in result.stages.items():
        began = time.perf_counter()
        receipt = writer.write(name, 0, arrays, result.notes.get(name))
        writing[name] = time.perf_counter() - began
        size[name] = sum(file.size for file in receipt.files.values())
    return _Trial(result, writing, size)


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"
