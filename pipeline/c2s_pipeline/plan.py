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
from c2s_cache.schema import array_specs
from c2s_cache.writer import BlockWriter, create_cache
from c2s_pipeline.block import BlockComputer, batch_rows, stored_inputs
from c2s_pipeline.build import load_teacher
from c2s_pipeline.extras import require
from c2s_pipeline.kmeans import BackendName, create_backend
from c2s_pipeline.machine import blocks_under_way, lanes_of
from c2s_pipeline.memory import peak_memory
from c2s_pipeline.request import BuildRequest, make_manifest, row_order
from c2s_pipeline.source import ImageSource
from c2s_pipeline.teachers.base import Teacher
from c2s_pipeline.teachers.text import class_embeddings

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
        advance: told of each step that is done, out of `STEPS`.

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
    step = advance or (lambda _: None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trial.zarr"
        create_cache(path, manifest)
        trial = _Trial(path, source, teacher, request.backend, ids)
        found: dict[tuple[str, ...], tuple[float, int]] = {}
        for stages in STEPS:
            present = tuple(s for s in stages if s in manifest.stages)
            found[stages] = trial.run(present)
            step(1)
        scale = len(order) / len(ids)
        costs = _split(found, trial.bytes(), teacher.dense_size == teacher.image_size, scale)
        costs.append(_text(teacher, manifest.requests["text"], source.classes))
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


STEPS = (("images", "labels", "views"), ("teacher",), ("dense", "masks"), ("regions",))
"""Stages that a trial computes together."""


class _Trial:
    """One block, computed in this process by what workers call.

    Attributes:
        held: bytes of its arrays.
        pixels: bytes of the views and region images that its batches held, each stacked once more.
    """

    def __init__(
        self,
        path: Path,
        source: ImageSource,
        teacher: Teacher,
        backend: BackendName,
        ids: list[str],
    ) -> None:
        self.path, self.ids = path, ids
        self.writer = BlockWriter(path)
        self._teacher, manifest = teacher, self.writer.manifest
        self.computer = BlockComputer(
            manifest, source, teacher, create_backend(backend, teacher.device.type)
        )
        self.held = self.pixels = 0

    def run(self, stages: tuple[str, ...]) -> tuple[float, int]:
        """Seconds and teacher passes of some stages, which are in the cache afterwards."""
        missing, began = self.writer.missing(0), time.perf_counter()
        there = {s.path for s in array_specs(self.writer.manifest) if s.stage not in missing}
        stored = Cache(self.path).read(0, stored_inputs(stages) & there)
        result = self.computer.compute(self.ids, 0, stages, stored)
        side = self._teacher.dense_size if "masks" in stages else self._teacher.image_size
        self.pixels += 2 * 3 * result.passes * side**2
        for stage, arrays in result.stages.items():
            self.held += sum(array.nbytes for array in arrays.values())
            self.writer.write(stage, 0, arrays, result.notes.get(stage))
        return time.perf_counter() - began, result.passes

    def bytes(self) -> dict[str, int]:
        """Bytes on disk by stage."""
        receipts = Cache(self.path).receipts.items()
        return {s: sum(f.size for f in r.files.values()) for (s, _), r in receipts}


def _split(
    found: dict[tuple[str, ...], tuple[float, int]],
    size: dict[str, int],
    shared: bool,
    scale: float,
) -> list[StagePlan]:
    """Costs by stage of the whole build. A pass that gives CLS and dense features counts once."""
    plans = []
    for stages, (seconds, passes) in found.items():
        last = stages[
            -1
        ]  # the dense tier costs space, and what time it takes is the pass of `masks`
        if last == "masks" and shared:
            seconds, passes = max(seconds - found["teacher",][0], 0.0), 0
        for stage in stages:
            if stage in size:
                spent, through = (seconds, passes) if stage == last else (0.0, 0)
                plans.append(
                    StagePlan(
                        stage,
                        scale * spent / 3600,
                        round(scale * size[stage]),
                        round(scale * through),
                    )
                )
    return plans


def _text(teacher: Teacher, request: dict[str, object], classes: tuple[str, ...]) -> StagePlan:
    """Cost of the class embeddings, from a few of them."""
    size = 4 * len(classes) * teacher.dim
    templates = request.get("templates")
    if not isinstance(templates, list):
        return StagePlan("text", 0.0, size, 0)
    few = list(classes[:4])
    began = time.perf_counter()
    class_embeddings(teacher.text, few, templates)
    seconds = (time.perf_counter() - began) * len(classes) / len(few)
    return StagePlan("text", seconds / 3600, size, 0)


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"
