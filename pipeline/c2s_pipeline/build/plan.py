"""Invariant: what a build will cost is a trial build of some of its images, scaled; on disk it never takes more."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from c2s_cache import C2SError, Cache, ConfigError, Manifest
from c2s_cache.manifest_file import read_manifest
from c2s_cache.schema import array_specs
from c2s_cache.writer import BlockWriter, create_cache
from c2s_pipeline.batch import StoredBlock
from c2s_pipeline.build.block import BlockComputer, batch_rows
from c2s_pipeline.build.builder import imports, load_teacher
from c2s_pipeline.build.disk import FILE_BLOCK, TriedArray, allocated, projected_once
from c2s_pipeline.build.request import BuildRequest, make_manifest
from c2s_pipeline.build.resources import blocks_under_way, lanes_of
from c2s_pipeline.build.rows import new_rows, part_of, rows_of
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

    `hours` of one worker that does one thing after another, on the machine as it was (a build overlaps decoding,
    teacher and writing; it is an estimate, no bound); `bytes` on disk, with its receipts; `passes` through the
    teacher's visual tower.
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
    default; `metadata` are the bytes of what belongs to no stage. `choices` has, for stages with a setting that says
    how much they store, their bytes under each of its values, by "STAGE.KEY" and value.
    """

    images: int
    sampled: int
    stages: tuple[StagePlan, ...]
    memory: int
    gpu_memory: int
    workers: int
    metadata: int = 0
    choices: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def hours(self) -> float:
        """Of the whole build."""
        return sum(stage.hours for stage in self.stages) / self.workers

    @property
    def bytes(self) -> int:
        """Of the whole cache on disk."""
        return self.metadata + sum(stage.bytes for stage in self.stages)

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
                self._smaller(free),
            )
        available = require("psutil", "build").virtual_memory().available
        if self.memory * self.workers > available:
            raise DoesNotFit(
                f"The build would hold {_gib(self.memory * self.workers)} of memory, {_gib(self.memory)} "
                f"in each of {self.workers} workers, but {_gib(available)} are available.",
                "Choose a smaller --batch-size or --block-rows, or fewer --workers.",
            )

    def _smaller(self, free: int) -> str:
        """What to do where the cache does not fit: the largest of the choices that does, if one does."""
        now = {stage.stage: stage.bytes for stage in self.stages}
        fitting = [
            (whole, f"{key}={value}")
            for key, sizes in self.choices.items()
            for value, size in sizes.items()
            if (whole := self.bytes - now.get(key.split(".")[0], 0) + size) <= free
        ]
        if not fitting:
            return "Choose another --out or fewer --views."
        size, choice = max(fitting)
        return f"It fits with --set {choice}, which takes {_gib(size)} in all. Or choose another --out."


def plan_build(
    source: ImageSource,
    request: BuildRequest,
    sample: int,
    workers: int | None = None,
    advance: Callable[[int], None] | None = None,
    grown: Path | None = None,
) -> Plan:
    """Build a few images into a temporary folder, and scale what that cost.

    Args:
        source: the data set split.
        request: what is to be built.
        sample: number of images to try, the first of the cache's order.
        workers: worker processes; None: one per GPU, else one.
        advance: told of images that were tried.
        grown: the cache that is to grow by what came since, which alone is planned.

    Raises:
        C2SError: as for a build.
    """
    require("psutil", "build")  # before the trial, for what follows it
    rows = new_rows(source, request) if grown is None else rows_of(source, request, grown, True)
    if grown is not None and rows.parts == read_manifest(grown).parts:
        raise ConfigError(f"{grown} has all images of {source.name}/{source.split}: none came.")
    source = imports(source, request, rows)
    order = rows.ids[-1]
    ids = order[:sample]
    teacher, _ = load_teacher(request)
    whole = make_manifest(source, request, [rows.parts[-1]], teacher.info())
    manifest = make_manifest(source, request, [part_of(source, ids)], teacher.info())
    side = teacher.image_size
    teacher.embed_images(np.zeros((1, side, side, 3), np.uint8))  # the first one pays for much else
    scale = len(order) / len(ids)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trial.zarr"
        create_cache(path, manifest)
        trial = _tried(path, source, teacher, list(ids), whole, advance)
    costs = []
    for name in manifest.stage_names:
        if name in trial.receipts:
            hours, passes = scale * trial.seconds[name] / 3600, round(scale * trial.passes[name])
            costs.append(StagePlan(name, hours, trial.bytes_of(name, whole), passes))
        else:
            once = Once(manifest, teacher, lambda done, total: None)
            seconds, size = request.stage(name).project_once(once)
            size = projected_once(len(manifest.stage(name).arrays), size) + FILE_BLOCK
            costs.append(StagePlan(name, seconds / 3600, size, 0))
    count = workers or max(torch.cuda.device_count(), 1)
    lanes, block = lanes_of(count), min(request.block_rows, len(order))
    held = COPIES * block  # and meanwhile those of the other blocks under way
    held += min((blocks_under_way(whole, lanes) - 1) * block, len(order) - block)
    few = min(len(ids), block)  # the trial's own blocks, whose arrays and pixels are in its peak
    arrays = max(held - COPIES * few, 0) * trial.held // len(ids)
    at_once = min(lanes * min(batch_rows(whole), block), len(order))
    pixels = max(at_once - few, 0) * trial.pixels // len(ids)
    return Plan(
        images=len(order),
        sampled=len(ids),
        stages=tuple(costs),
        memory=peak_memory() + arrays + pixels,
        gpu_memory=torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
        workers=count,
        metadata=trial.metadata,
        choices=_choices(request, whole, {cost.stage: cost.bytes for cost in costs}),
    )


@dataclass
class _Trial:
    """What blocks cost that were computed and written in this process by what workers call.

    `seconds`, also of writing, and `passes` by stage; `arrays` by path; `receipts` are the bytes of one on disk by
    stage, `metadata` those of all other files; `held` bytes of the arrays, `pixels` of the images that batches held
    for the teacher, each stacked once more.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    passes: Counter[str] = field(default_factory=Counter)
    arrays: dict[str, TriedArray] = field(default_factory=dict)
    receipts: dict[str, int] = field(default_factory=dict)
    metadata: int = 0
    held: int = 0
    pixels: int = 0

    def bytes_of(self, stage: str, whole: Manifest) -> int:
        """On disk, in the whole cache."""
        arrays = (self.arrays[path] for path in whole.stage(stage).arrays)
        size = sum(array.projected(whole.rows, whole.block_rows) for array in arrays)
        return size + whole.blocks * self.receipts[stage]


def _tried(
    path: Path,
    source: ImageSource,
    teacher: Teacher,
    ids: list[str],
    whole: Manifest,
    advance: Callable[[int], None] | None,
) -> _Trial:
    writer, trial = BlockWriter(path), _Trial()
    manifest = writer.manifest
    stages = [stage.name for stage in manifest.stages if not stage.once]
    computer = BlockComputer(manifest, source, lambda: teacher, teacher.device.type)
    items: dict[str, list[NDArray[Any]]] = {}
    files: dict[str, list[int]] = {}
    for number in range(manifest.blocks):
        rows, stored = manifest.block_range(number), StoredBlock(Cache(path), number, stages)
        result = computer.compute(ids[rows.start : rows.stop], rows.start, stages, stored, advance)
        trial.passes.update(result.passes)
        for name, spent in result.seconds.items():
            trial.seconds[name] = trial.seconds.get(name, 0.0) + spent
        trial.pixels += 2 * result.shown
        for name, arrays in result.stages.items():
            began = time.perf_counter()
            receipt = writer.write(name, number, arrays, result.notes.get(name))
            trial.seconds[name] += time.perf_counter() - began
            for at, values in arrays.items():
                trial.held += values.nbytes
                sizes = (f.size for file, f in receipt.files.items() if file.startswith(f"{at}/c/"))
                files.setdefault(at, []).extend(sizes)
                items.setdefault(at, []).extend(_by_row(manifest, at, arrays, len(rows)))
    specs = {spec.path: spec for spec in array_specs(whole)}
    trial.arrays = {at: TriedArray.of(specs[at], files[at], items[at]) for at in items}
    for name in stages:
        receipts = (path / "receipts" / name).iterdir()
        trial.receipts[name] = max(allocated([file.stat().st_size]) for file in receipts)
    every = allocated(file.stat().st_size for file in path.rglob("*") if file.is_file())
    written = sum(allocated(sizes) for sizes in files.values())
    trial.metadata = every - written - manifest.blocks * sum(trial.receipts.values())
    trial.metadata += FILE_BLOCK  # of the provenance, which a trial has not
    return trial


def _choices(
    request: BuildRequest, whole: Manifest, planned: Mapping[str, int]
) -> dict[str, dict[str, int]]:
    """`Plan.choices`: as planned for the values that are asked for, else of arrays that do not get smaller."""
    found: dict[str, dict[str, int]] = {}
    for stage in map(request.stage, request.asked()):
        for key, rows in stage.choices(whole).items():
            sizes = found.setdefault(f"{stage.name}.{key}", {})
            for value, row in rows.items():
                blocks = (
                    3 * FILE_BLOCK * whole.blocks if row else 0
                )  # a receipt, and two files in part
                sizes[value] = math.ceil(1.01 * row * whole.rows) + blocks
            sizes[getattr(stage.settings, key)] = planned.get(stage.name, 0)
    return found


def _by_row(
    manifest: Manifest, path: str, arrays: Mapping[str, NDArray[Any]], rows: int
) -> list[NDArray[Any]]:
    """The values of each row of a block."""
    end = manifest.arrays[path].end
    if end is None:
        return list(arrays[path])
    return np.split(arrays[path], arrays[end].reshape(rows, -1)[:-1, -1].astype(np.int64))


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"
