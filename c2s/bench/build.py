"""A whole build against the bare teacher passes that it cannot do without, on the same device."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count, product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from c2s.bench.inputs import build_request
from c2s.bench.measure import Rates, alternate, device_name, result
from c2s.bench.processes import Processes
from c2s.datasets import load_dataset
from c2s_cache import Cache, open_cache
from c2s_cache.change import Change
from c2s_cache.manifest import USABLE
from c2s_pipeline.batch import StoredBlock
from c2s_pipeline.build.block import BlockComputer
from c2s_pipeline.build.builder import build, load_teacher
from c2s_pipeline.build.dask_cluster import connect
from c2s_pipeline.devices import default_device
from c2s_pipeline.source import ImageSource
from c2s_pipeline.teachers.base import Teacher

BATCHES = (4, 8, 16, 32, 64, 128)
TRIAL = 2.0
"""Seconds of a trial."""


def bench_build(
    teacher: str | None = None,
    pretrained: str | None = None,
    images: int = 500,
    rounds: int = 3,
    dataset: str = "shapes",
    root: Path | None = None,
    advance: Callable[[int], None] | None = None,
    trial: float = TRIAL,
    **settings: Any,
) -> dict[str, Any]:
    """Images per second of the build, and of the teacher alone on the same images and regions.

    Ours is everything that happens to an image: reading, decoding, cutting, teacher, clustering, masks,
    regions, compressing, writing, reading back, receipts. Left out is what a build pays once: starting
    workers, loading the teacher, class sentences. The reference holds all that the teacher is shown as pixels in
    memory, and takes what suits it best: the batch size, and one pass at a time that all
    cores share or as many passes side by side as there are cores.

    Args:
        teacher, pretrained: default the bundled teacher, else random weights.
        images: number of images.
        rounds: timed rounds of each side.
        dataset, root: where the images come from.
        advance: called after every round.
        trial: seconds of each trial of a way of the reference.
        **settings: of the build, such as `precision` and `dense_size`; the reference has them too.
    """
    request = build_request(teacher, pretrained, limit=images, dataset=dataset, **settings)
    source = load_dataset(dataset, root).split("train")
    device = default_device()
    with (
        TemporaryDirectory(prefix="c2s-bench-") as folder,
        connect(None, 1, device) as client,
    ):
        address = client.scheduler.address
        outs = (Path(folder) / f"{i}.zarr" for i in count())
        processes = Processes(client.run(os.getpid).values())
        clock = _Clock(processes)
        last: list[Path] = []

        def ours() -> int:
            out = next(outs)
            report = build(source, request, out, progress=clock, scheduler=address)
            clock.stop(report.built)
            last[:] = [out]
            memory.append(report.memory)
            return report.built

        memory: list[int] = []
        ours()  # the worker loads its teacher; the cache says what the reference has to do
        model, _ = load_teacher(request)
        built = open_cache(last[0])
        dense, whole = _inputs(built, source, model)
        batch, lanes = _best_way(model, whole if len(whole) else dense, trial)
        usable = int(np.count_nonzero(built.column(USABLE)))

        spent: list[float] = []

        def reference() -> int:
            before = processes.processor_seconds()
            _forward(model, dense, whole, batch, lanes)
            spent.append((processes.processor_seconds() - before) / usable)
            return usable

        timed = alternate({"c2s": ours, "teacher": reference}, rounds, warmup=0, advance=advance)
        rates = {"c2s": Rates(tuple(clock.rates[1:])), "teacher": timed["teacher"]}
        what = {
            "teacher": request.teacher.rpartition("/")[2],
            "dataset": dataset,
            "images": usable,
            "dense passes per image": round(len(dense) / usable, 2),
            "other passes per image": round(len(whole) / usable, 2),
            "precision": request.precision,
            "dense size": model.dense_size,
            "device": device_name(),
            "batch": {"c2s": request.batch_size, "teacher": batch},
            "passes side by side": {"c2s": os.cpu_count(), "teacher": lanes},
            "left out": "starting workers, loading the teacher, class sentences",
            "builder_peak_memory_mib": round(max(memory) / 2**20, 1),
        }
        used = {"c2s": median(clock.spent[1:]), "teacher": median(spent)}
        more = {
            "processor_ms_per_image": {k: round(1000 * v, 2) for k, v in used.items()},
            "processor_ratio": used["teacher"] / used["c2s"],
            "memory_growth_mib": processes.growth(),
        }
        return result("build", rates, "c2s", "teacher", "images/s", what, **more)


class _Clock:
    """Times a build from the moment its blocks start, and samples its memory at every step; takes the
    place of a progress bar.

    `rates` in images per second and `spent`, processor seconds per image, of every build.
    """

    def __init__(self, processes: Processes) -> None:
        self.rates: list[float] = []
        self.spent: list[float] = []
        self._processes = processes
        self._started = self._before = 0.0

    def change(self, change: Change) -> None:
        """Never: every round builds anew."""

    def once(self, stage: str, done: int, total: int) -> None:
        """Not timed."""

    def warn(self, sentence: str) -> None:
        """Not shown."""

    def advance(self, rows: int) -> None:
        """Rows are done."""
        self._processes.sample()

    def start(self, total: int, done: int) -> None:
        """Blocks start now."""
        self._started, self._before = time.perf_counter(), self._processes.processor_seconds()

    def stop(self, images: int) -> None:
        """The build has returned."""
        self.rates.append(images / (time.perf_counter() - self._started))
        self.spent.append((self._processes.processor_seconds() - self._before) / images)


class _Listening:
    """A teacher that keeps what it is shown."""

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self.seen_densely: list[NDArray[np.uint8]] = []
        self.seen_whole: list[NDArray[np.uint8]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._teacher, name)

    def dense(self, images: NDArray[np.uint8]) -> Any:
        self.seen_densely.append(images)
        return self._teacher.dense(images)

    def embed_images(self, images: NDArray[np.uint8], batch: int | None = None) -> Any:
        self.seen_whole.append(images)
        return self._teacher.embed_images(images, batch)


def _inputs(
    cache: Cache, source: ImageSource, teacher: Teacher
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """What a build of a cache shows the teacher: uint8 [n, S, S, 3] for dense features, [R, T, T, 3] for embeddings."""
    m, listening = cache.manifest, _Listening(teacher)
    stages = [stage.name for stage in m.stages if not stage.once]
    computer = BlockComputer(m, source, lambda: listening, teacher.device.type)
    for number in range(cache.blocks):
        stored = StoredBlock(cache, number, stages)
        computer.compute(cache.ids(number), m.block_range(number).start, stages, stored)
    sides = (teacher.dense_size, listening.seen_densely), (teacher.image_size, listening.seen_whole)
    dense, whole = (
        np.concatenate([np.zeros((0, s, s, 3), np.uint8), *shown]) for s, shown in sides
    )
    return dense, whole


def _forward(
    teacher: Teacher,
    dense: NDArray[np.uint8],
    whole: NDArray[np.uint8],
    batch: int,
    lanes: int,
) -> None:
    """All passes, so many side by side; results are brought to the host."""

    def looked_at(images: NDArray[np.uint8]) -> None:
        for values in teacher.dense(images):
            values.cpu()

    def embedded(images: NDArray[np.uint8]) -> None:
        teacher.embed_images(images).cpu()

    before = torch.get_num_threads()
    threads = max((os.cpu_count() or 1) // lanes, 1)
    torch.set_num_threads(threads)
    with ThreadPoolExecutor(lanes, "lane", torch.set_num_threads, (threads,)) as pool:
        jobs = [pool.submit(looked_at, part) for part in _parts(dense, batch)]
        jobs += [pool.submit(embedded, part) for part in _parts(whole, batch)]
        for job in jobs:
            job.result()
    torch.set_num_threads(before)


def _parts(images: NDArray[np.uint8], size: int) -> Iterator[NDArray[np.uint8]]:
    return (images[i : i + size] for i in range(0, len(images), size))


def _best_way(teacher: Teacher, images: NDArray[np.uint8], trial: float) -> tuple[int, int]:
    """The batch size, and the number of passes side by side, at which the teacher is fastest.

    Each way is tried on as many images as take about `trial` seconds, and on four small batches at least;
    the fastest three are tried once more, for a chance delay would choose a slow one.
    """

    def rate(shown: NDArray[np.uint8], way: tuple[int, int]) -> float:
        started = time.perf_counter()
        _forward(teacher, shown[:0], shown, *way)
        return len(shown) / (time.perf_counter() - started)

    first = images[: BATCHES[0]]
    rate(first, (len(first), 1))  # a GPU's first pass loads its kernels
    few = images[: max(int(trial * rate(first, (len(first), 1))), 4 * len(first))]
    sizes = [b for b in BATCHES if 2 * b <= len(few)] or [len(first)]
    rates = {way: rate(few, way) for way in product(sizes, {1, os.cpu_count() or 1})}
    for way in sorted(rates, key=lambda way: rates[way])[-3:]:
        rates[way] = max(rates[way], rate(few, way))
    return max(rates, key=lambda way: rates[way])
