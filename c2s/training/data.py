"""Invariant: what a batch holds follows from the cache and the batch sequence, whoever loads it.

A cache travels to a loader process as its path and is opened there; processes are spawned, not
forked.
"""

from __future__ import annotations

import signal
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from c2s.methods.batch import Batch
from c2s.training.jitter import draw_jitter
from c2s.training.online import Answer
from c2s.training.sampler import BatchSequence, SampleRef, fresh_view_rng, jitter_rng
from c2s_cache.augment import AugmentConfig, draw_view
from c2s_cache.manifest import IGNORE
from c2s_cache.pseudo_mask import pseudo_mask
from c2s_cache.reader import Block, Cache, Sample
from c2s_cache.views import Crop, crop, crop_image, crop_labels, decode_image

T = TypeVar("T")


@dataclass(frozen=True)
class View:
    """One training example in numpy; fields as in `Batch`, without the batch axis, R not padded."""

    image: NDArray[np.uint8]
    pseudo: NDArray[np.int16]
    global_cls: NDArray[np.float16]
    region_cls: NDArray[np.float16]
    region_ids: NDArray[np.int16]
    region_area: NDArray[np.float32]
    row: int
    extent: NDArray[np.int64]
    jitter: NDArray[np.float32] | None = None
    unseen: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Replay:
    """A view as a loader process cuts it, without the teacher's part.

    `sample` as stored (without the encoded image where `images` are there);
    `crop` the view at the student's size; `images` uint8 [s, s, 3], the view at
    each size s of an online teacher; `jitter` float32 [5] or None, see `draw_jitter`; `unseen` bool
    [S, S], pixels whose annotation was removed, where the sample tells.
    """

    sample: Sample
    crop: Crop
    images: tuple[NDArray[np.uint8], ...] = ()
    jitter: NDArray[np.float32] | None = None
    unseen: NDArray[np.bool_] | None = None


def replay(
    sample: Sample,
    size: int,
    rng: np.random.Generator | None = None,
    teacher_sizes: tuple[int, ...] = (),
) -> Replay:
    """Decode and cut a cached view, exactly as the builder cut it for the teacher.

    Args:
        sample: as stored.
        size: S, side of the student's view in pixels.
        rng: stream of the photometric distortion, which the student's device applies; None for none.
        teacher_sizes: sides of the views of an online teacher.

    Raises:
        UnreadableImage: the stored bytes cannot be decoded.
    """
    image = decode_image(sample.image)
    view = crop(image, sample.labels, sample.box, sample.flip, size)
    return Replay(
        replace(sample, image=b"") if teacher_sizes else sample,
        view,
        tuple(crop_image(image, sample.box, sample.flip, s) for s in teacher_sizes),
        None if rng is None else draw_jitter(rng),
        _unseen(sample, view),
    )


def _unseen(sample: Sample, view: Crop) -> NDArray[np.bool_] | None:
    """Pixels of a view without a label that the data set has one for: bool [S, S]; None if not known."""
    if sample.ignored is None:
        return None
    ignored = crop_labels(
        sample.ignored.view(np.uint8), sample.box, sample.flip, view.labels.shape[0]
    )  # 0 or 1, and 255 on padding
    unseen: NDArray[np.bool_] = (view.labels == IGNORE) & (ignored == 0)
    return unseen


def taught(view: Replay, answer: Sample | Answer, num_classes: int) -> View:
    """A training example: the view and the teacher's part; the pseudo mask is built here."""
    return View(
        image=view.crop.image,
        pseudo=pseudo_mask(view.crop.labels, answer.grid, num_classes, view.crop.inside),
        global_cls=answer.global_cls,
        region_cls=answer.region_cls,
        region_ids=answer.region_ids,
        region_area=answer.region_area,
        row=view.sample.row,
        extent=extent(view.crop.inside),
        jitter=view.jitter,
        unseen=view.unseen,
    )


def load_view(
    sample: Sample, num_classes: int, size: int, rng: np.random.Generator | None = None
) -> View:
    """Replay a cached view with the teacher's part that is stored; arguments as for `replay`."""
    return taught(replay(sample, size, rng), sample, num_classes)


def extent(inside: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Top, left, bottom, right of the part of a view that shows the image: int64 [4], zeros if none."""
    if inside.all():
        return np.array((0, 0, *inside.shape), np.int64)
    rows, cols = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    edges = (rows[0], cols[0], rows[-1] + 1, cols[-1] + 1) if len(rows) else (0, 0, 0, 0)
    return np.array(edges, np.int64)


def collate(views: Sequence[View]) -> Batch:
    """Stack views; regions are padded to the largest number among them (at least one slot)."""
    regions = max(1, *(len(v.region_ids) for v in views))
    draws = [v.jitter for v in views if v.jitter is not None]
    ids = [a for v in views for a in (v.pseudo, v.region_ids) if a.size]
    unseen = [v.unseen for v in views if v.unseen is not None]
    return Batch(
        image=torch.from_numpy(np.stack([v.image for v in views]).transpose(0, 3, 1, 2).copy()),
        pseudo=_stacked([v.pseudo for v in views], np.int64),
        global_cls=_stacked([v.global_cls for v in views], np.float32),
        region_cls=_padded([v.region_cls for v in views], regions, 0, np.float32),
        region_ids=_padded([v.region_ids for v in views], regions, -1, np.int64),
        region_area=_padded([v.region_area for v in views], regions, 0, np.float32),
        rows=torch.tensor([v.row for v in views]),
        extent=torch.from_numpy(np.stack([v.extent for v in views])),
        jitter=torch.from_numpy(np.stack(draws)) if draws else None,
        max_id=max(int(a.max()) for a in ids),
        unseen=torch.from_numpy(np.stack(unseen)) if unseen else None,
    )


class BatchStream(IterableDataset[Batch | list[Replay]]):
    """What one process loads of the batches `start`, `start` + 1, ..., `stop` - 1 of a sequence.

    Every batch is cut into `accumulate` micro-batches and each of these into equal parts, one per
    process: the stream is the process's part of every micro-batch. With W loader workers, worker w
    makes every W-th item; the loader takes them in turn.

    Args:
        cache: a cache, or the path of one to be opened in the worker.
        sequence: the batches.
        start, stop: range of iterations.
        size: S, side of the views in pixels.
        jitter: draw photometric distortions.
        rank, world_size: which part of each micro-batch.
        accumulate: micro-batches per batch.
        teacher_sizes: sides of the views of an online teacher; batches are then lists of replays,
            which become a `Batch` once the teacher has answered.
        fresh: how to draw new views in place of the cached ones; only with `teacher_sizes`.
        transductive: also say which pixels are of unseen classes; for a self-training and nothing else.
    """

    def __init__(
        self,
        cache: Any,
        sequence: BatchSequence,
        start: int,
        stop: int,
        size: int,
        jitter: bool,
        rank: int = 0,
        world_size: int = 1,
        teacher_sizes: tuple[int, ...] = (),
        fresh: AugmentConfig | None = None,
        accumulate: int = 1,
        transductive: bool = False,
    ) -> None:
        self.cache = cache
        self.sequence = sequence
        self.start, self.stop = start, stop
        self.size, self.jitter = size, jitter
        self.rank, self.world_size = rank, world_size
        self.teacher_sizes, self.fresh = teacher_sizes, fresh
        self.accumulate = accumulate
        self.transductive = transductive

    def __iter__(self) -> Iterator[Batch | list[Replay]]:
        return self._batches() if get_worker_info() else _ahead(self._batches())

    def _batches(self) -> Iterator[Batch | list[Replay]]:
        cache = Cache(self.cache) if isinstance(self.cache, (str, Path)) else self.cache
        blocks = _BlockWindow(cache, self.sequence.window, self.transductive)
        worker = get_worker_info()
        first, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        parts = self.accumulate * self.world_size
        begin, end = self.start * self.accumulate, self.stop * self.accumulate
        for number in range(begin + first, end, stride):
            step, micro = divmod(number, self.accumulate)
            refs = self.sequence.batch(step, micro * self.world_size + self.rank, parts)
            views = [self._replay(blocks, ref) for ref in refs]
            if self.teacher_sizes:
                yield views
            else:
                yield collate([taught(v, v.sample, len(cache.manifest.classes)) for v in views])

    def _replay(self, blocks: _BlockWindow, ref: SampleRef) -> Replay:
        sample = blocks[ref.block].sample(ref.item, ref.view)
        if self.fresh is not None:
            stream = fresh_view_rng(self.sequence.seed, ref.position)
            box, flip = draw_view(sample.labels, self.size, stream, self.fresh)
            sample = replace(sample, box=np.array(box), flip=flip)
        rng = jitter_rng(self.sequence.seed, ref.position) if self.jitter else None
        return replay(sample, self.size, rng, self.teacher_sizes)


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

    def __init__(self, cache: Any, capacity: int, transductive: bool) -> None:
        self.cache, self.capacity, self.transductive = cache, capacity, transductive
        self.held: OrderedDict[int, Block] = OrderedDict()

    def __getitem__(self, block: int) -> Block:
        if block not in self.held:
            if len(self.held) >= self.capacity:
                self.held.popitem(last=False)
            self.held[block] = self.cache.read_block(block, self.transductive)
        self.held.move_to_end(block)
        return self.held[block]


def block_sizes(cache: Cache) -> tuple[int, ...]:
    """Usable rows of every block (quarantined images left out)."""
    manifest = cache.manifest
    lost = {int(entry["row"]) for entry in cache.quarantine}
    return tuple(
        sum(row not in lost for row in manifest.block_range(b)) for b in range(manifest.blocks)
    )


def loader(stream: BatchStream, workers: int, pin_memory: bool) -> DataLoader[Batch | list[Replay]]:
    """The loader of a stream; it leaves the global random state alone."""
    return DataLoader(
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
    # Ctrl-C reaches the whole process group; the main process decides when workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def _stacked(arrays: Sequence[NDArray[Any]], dtype: type) -> Tensor:
    # Converted here, not by torch, which would wake the threads that the training step is using.
    return torch.from_numpy(np.stack(arrays, dtype=dtype))


def _padded(arrays: Sequence[NDArray[Any]], length: int, fill: int, dtype: type) -> Tensor:
    out = np.full((len(arrays), length, *arrays[0].shape[1:]), fill, dtype)
    for i, array in enumerate(arrays):
        out[i, : len(array)] = array
    return torch.from_numpy(out)
