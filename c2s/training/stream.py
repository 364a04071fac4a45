"""Invariant: what a batch holds follows from the cache and the batch sequence, whoever loads it.

A cache travels to a loader process as its address and manifest, and is opened there: it must still be the
same. Processes are spawned, not forked.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from c2s.methods.batch import Batch
from c2s.methods.examples import (
    BOX,
    FLIP,
    CutView,
    Examples,
    Look,
    TrainingExample,
    cut_view,
    source_labels,
)
from c2s.runs.config import TrainConfig
from c2s.training.jitter import draw_jitter
from c2s.training.sampler import BatchSequence, SampleRef, fresh_view_rng, jitter_rng
from c2s.training.signals import deaf
from c2s.training.sockets import short_sockets
from c2s_cache.augment import AugmentConfig, draw_view
from c2s_cache.block import Block, Sample
from c2s_cache.errors import C2SError, CacheError, UnreadableImage
from c2s_cache.reader import Cache
from c2s_cache.semaphores import named

T = TypeVar("T")
V = TypeVar("V", TrainingExample, CutView)


class BatchStream(IterableDataset[Batch | list[CutView]]):
    """What one process loads of the batches `start`, `start` + 1, ..., `stop` - 1 of a sequence.

    Every batch is cut into `accumulate` micro-batches and each of these into equal parts, one per
    process: the stream is the process's part of every micro-batch. With W loader workers, worker w
    makes every W-th item; the loader takes them in turn.

    Args:
        cache: a cache, or the address of one.
        sequence: the batches.
        examples: what the method learns from a view.
        start, stop: range of iterations.
        size: S, side of the views in pixels.
        jitter: draw photometric distortions.
        rank, world_size: which part of each micro-batch.
        accumulate: micro-batches per batch.
        looks: how an online teacher sees views; batches are then lists of cut views,
            which become a `Batch` once the teacher has answered.
        fresh: how to draw new views in place of the cached ones.
        view_cache_bytes: bytes of finished examples that may be kept. If all views of the cache fit, each is made once.
    """

    def __init__(
        self,
        cache: Any,
        sequence: BatchSequence,
        examples: Examples[Any],
        start: int,
        stop: int,
        size: int,
        jitter: bool,
        rank: int = 0,
        world_size: int = 1,
        looks: tuple[Look, ...] = (),
        fresh: AugmentConfig | None = None,
        accumulate: int = 1,
        view_cache_bytes: int = 0,
    ) -> None:
        self.cache, self.manifest = cache, getattr(cache, "manifest", None)
        self.sequence, self.examples = sequence, examples
        self.start, self.stop = start, stop
        self.size, self.jitter = size, jitter
        self.rank, self.world_size = rank, world_size
        self.looks, self.fresh = looks, fresh
        self.accumulate = accumulate
        pixels = sum(sequence.block_sizes) * sequence.views * size**2
        # Views that are drawn anew are never seen again.
        self.keeps = fresh is None and pixels * examples.pixel_bytes <= view_cache_bytes

    def __iter__(self) -> Iterator[Batch | list[CutView]]:
        return _told(self._batches()) if get_worker_info() else _ahead(self._batches())

    @property
    def batches(self) -> int:
        """Micro-batches that one process loads."""
        return (self.stop - self.start) * self.accumulate

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"cache": str(self.cache)}

    def _batches(self) -> Iterator[Batch | list[CutView]]:
        cache = self.cache
        if isinstance(cache, (str, Path)):
            cache = Cache(cache, self.manifest)
        untold = self.examples.teacher_paths if self.looks else frozenset()
        blocks = _BlockWindow(cache, self.sequence.shuffle_blocks, self.examples.paths - untold)
        kept: dict[Any, TrainingExample] = {}
        worker = get_worker_info()
        first, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        parts = self.accumulate * self.world_size
        begin, end = self.start * self.accumulate, self.stop * self.accumulate
        for number in range(begin + first, end, stride):
            step, micro = divmod(number, self.accumulate)
            refs = self.sequence.batch(step, micro * self.world_size + self.rank, parts)
            if self.looks:
                yield [self._distorted(self._cut(blocks, ref), ref) for ref in refs]
            else:
                made = [self._distorted(self._example(blocks, kept, ref), ref) for ref in refs]
                yield self.examples.collate(made)

    def _cut(self, blocks: _BlockWindow, ref: SampleRef) -> CutView:
        sample = blocks[ref.block].sample(ref.item, ref.view)
        if self.fresh is not None:  # the same of all frames that go together
            first = self.sequence.leader(ref)
            leader = sample
            if first != ref:
                leader = blocks[first.block].sample(first.item, first.view)
            stream = fresh_view_rng(self.sequence.seed, first.position)
            box, flip = draw_view(source_labels(leader), self.size, stream, self.fresh)
            drawn = {BOX: np.array(box), FLIP: np.array(flip)}
            sample = replace(sample, arrays={**sample.arrays, **drawn})
        with _naming(blocks.cache, sample):
            return cut_view(sample, self.size, self.looks)

    def _example(
        self, blocks: _BlockWindow, kept: dict[Any, TrainingExample], ref: SampleRef
    ) -> TrainingExample:
        key = (ref.block, ref.item, ref.view)
        if (example := kept.get(key)) is not None:
            return example
        view = self._cut(blocks, ref)
        example = cast(TrainingExample, self.examples.example(view, view.sample.arrays))
        if self.keeps:
            kept[key] = example
        return example

    def _distorted(self, view: V, ref: SampleRef) -> V:
        """The same with its photometric distortion, which is another one each time, of frames that go together one."""
        if not self.jitter:
            return view
        first = self.sequence.leader(ref).position
        return replace(view, jitter=draw_jitter(jitter_rng(self.sequence.seed, first)))


def _told(items: Iterator[T]) -> Iterator[T]:
    """The same items; an error comes as the last one, because a loader turns what is raised into text."""
    try:
        yield from items
    except C2SError as error:
        yield cast(T, error)


@contextmanager
def _naming(cache: Any, sample: Sample) -> Iterator[None]:
    """Say of an image that cannot be decoded where it is."""
    try:
        yield
    except UnreadableImage as error:
        raise CacheError(
            f"row {sample.row} of {cache} cannot be read: {error.what}",
            f"See what is damaged with: c2s cache verify {cache} --quick",
        ) from error


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, the next one made by a thread while the last one is used."""
    end = object()
    with ThreadPoolExecutor(1, "loader") as thread:
        following = thread.submit(next, items, end)
        while (item := following.result()) is not end:
            following = thread.submit(next, items, end)
            yield cast(T, item)


class _BlockWindow:
    """The blocks in memory; the least recently used one leaves."""

    def __init__(self, cache: Any, capacity: int, paths: frozenset[str]) -> None:
        self.cache, self.capacity, self.paths = cache, capacity, paths
        self.held: OrderedDict[int, Block] = OrderedDict()

    def __getitem__(self, block: int) -> Block:
        if block not in self.held:
            if len(self.held) >= self.capacity:
                self.held.popitem(last=False)
            self.held[block] = self.cache.read_block(block, self.paths)
        self.held.move_to_end(block)
        return self.held[block]


def view_cache_bytes(config: TrainConfig) -> int:
    """Bytes of finished views that one loader process of a run may keep."""
    return int(config.view_cache_gib * 2**30) // (config.devices * max(config.workers, 1))


def block_sizes(cache: Cache) -> tuple[int, ...]:
    """Usable rows of every block (quarantined images left out)."""
    manifest = cache.manifest
    rows = np.array([len(manifest.block_range(block)) for block in range(manifest.blocks)])
    lost = np.unique([int(entry["row"]) for entry in cache.quarantine]).astype(np.int64)
    rows -= np.bincount(lost // manifest.block_rows, minlength=manifest.blocks)
    return tuple(rows.tolist())


_RUNNING: set[Any] = set()
"""Iterations under way. One that is held here is no garbage before its processes have ended: the collector
takes the names of its semaphores first, and a process that is still starting needs them."""


class _Loader(DataLoader[Any]):
    """Its processes end with the iteration, however that ends, and not with a signal to all of a process group
    or job."""

    def __iter__(self) -> Any:
        if self.num_workers:
            short_sockets()
            with deaf():
                resource_tracker.ensure_running()  # it unblocks what it wants to have blocked itself
        before, items, given = named(), None, 0
        try:
            with deaf():
                items = super().__iter__()
                _RUNNING.add(items)
            ours = [remove for key, remove in named().items() if key not in before]
            for number, item in enumerate(_received(items)):
                if number == self.num_workers - 1:  # every one has opened them
                    for remove in ours:
                        remove()
                if isinstance(item, C2SError):
                    raise item
                yield item
                given += 1
        finally:
            _end(items)
        expected = cast(BatchStream, self.dataset).batches
        if given < expected:  # else a trainer would begin anew, for ever
            raise C2SError(
                f"Loader processes have given {given:,} of {expected:,} batches.",
                "What they wrote to stderr says why; --workers 0 does without them.",
            )

    def check_worker_number_rationality(self) -> None:
        """More processes than cores are the default's or the user's choice."""


def _received(items: Any) -> Iterator[Any]:
    """What an iteration gives; that one of its processes was killed is the same error wherever it shows."""
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except (
            OSError,
            EOFError,
        ) as error:  # a batch's memory is fetched from the process, through a socket
            processes = {p.sentinel: p for p in getattr(items, "_workers", ())}
            for ended in wait(list(processes), timeout=5) if processes else ():
                pid = processes[cast(int, ended)].pid
                raise RuntimeError(f"DataLoader worker (pid {pid}) exited unexpectedly") from error
            raise
        yield item


def _end(items: Any) -> None:
    """End the processes of an iteration, also those that are still starting."""
    try:
        if hasattr(items, "_shutdown_workers"):  # else it has none
            items._shutdown_workers()
            for process in items._workers:
                process.kill()  # of one that takes long to start, torch has given up waiting
                process.join()
    finally:
        _RUNNING.discard(items)


def loader(
    stream: BatchStream, workers: int, pin_memory: bool
) -> DataLoader[Batch | list[CutView]]:
    """The loader of a stream; it leaves the global random state alone, and raises what its processes met."""
    return _Loader(
        stream,
        batch_size=None,
        num_workers=workers,
        pin_memory=pin_memory,
        multiprocessing_context="spawn" if workers else None,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_init_worker,
        generator=torch.Generator(),
    )


def _init_worker(_: int) -> None:
    torch.set_num_threads(1)
    if hasattr(signal, "sigwaitinfo"):  # Linux; elsewhere it ends by itself, or not at all
        threading.Thread(target=_obey, args=(os.getppid(),), daemon=True).start()


def _obey(parent: int) -> None:
    """Of those who ask by SIGTERM, the process that started this one alone is heard."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
