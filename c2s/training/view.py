"""Invariant: a training example follows from what the cache holds of a view, pixel for pixel as the builder cut it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from c2s.methods.batch import Batch
from c2s.methods.clip_to_seg.examples import (
    GLOBAL_CLS,
    GRID,
    IGNORED,
    REGION_AREA,
    REGION_CLS,
    REGION_ID,
)
from c2s.methods.examples import BOX, FLIP, IMAGE, LABELS, source_map
from c2s.training.online import TeacherOutput
from c2s_cache.block import Sample
from c2s_cache.manifest import IGNORE
from c2s_cache.pseudo_mask import pseudo_mask
from c2s_cache.views import Crop, crop, crop_image, crop_labels, decode_image


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


def replay(sample: Sample, size: int, teacher_sizes: tuple[int, ...] = ()) -> Replay:
    """Decode and cut a cached view, exactly as the builder cut it for the teacher; not distorted.

    Args:
        sample: as stored.
        size: S, side of the student's view in pixels.
        teacher_sizes: sides of the views of an online teacher.

    Raises:
        UnreadableImage: the stored bytes cannot be decoded.
    """
    image, labels = decode_image(sample[IMAGE].tobytes()), source_map(sample, LABELS)
    box, flip = sample[BOX], bool(sample[FLIP])
    view = crop(image, labels, box, flip, size)
    if teacher_sizes:
        arrays = {path: values for path, values in sample.arrays.items() if path != IMAGE}
        images = tuple(crop_image(image, box, flip, s) for s in teacher_sizes)
        return Replay(replace(sample, arrays=arrays), view, images, unseen=_unseen(sample, view))
    return Replay(sample, view, unseen=_unseen(sample, view))


def _unseen(sample: Sample, view: Crop) -> NDArray[np.bool_] | None:
    """Pixels of a view without a label that the data set has one for: bool [S, S]; None if not known."""
    if IGNORED not in sample:
        return None
    ignored = crop_labels(
        source_map(sample, IGNORED).view(np.uint8),
        sample[BOX],
        bool(sample[FLIP]),
        view.labels.shape[0],
    )  # 0 or 1, and 255 on padding
    unseen: NDArray[np.bool_] = (view.labels == IGNORE) & (ignored == 0)
    return unseen


def taught(view: Replay, teacher: Sample | TeacherOutput, num_classes: int) -> View:
    """A training example: the view and the teacher's part; the pseudo mask is built here."""
    return View(
        image=view.crop.image,
        pseudo=pseudo_mask(view.crop.labels, teacher[GRID], num_classes, view.crop.inside),
        global_cls=teacher[GLOBAL_CLS],
        region_cls=teacher[REGION_CLS],
        region_ids=teacher[REGION_ID],
        region_area=teacher[REGION_AREA],
        row=view.sample.row,
        extent=extent(view.crop.inside),
        jitter=view.jitter,
        unseen=view.unseen,
    )


def load_view(sample: Sample, num_classes: int, size: int) -> View:
    """Replay a cached view with the teacher's part that is stored; arguments as for `replay`."""
    return taught(replay(sample, size), sample, num_classes)


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


def _stacked(arrays: Sequence[NDArray[Any]], dtype: type) -> Tensor:
    # Converted here, not by torch, which would wake the threads that the training step is using.
    return torch.from_numpy(np.stack(arrays, dtype=dtype))


def _padded(arrays: Sequence[NDArray[Any]], length: int, fill: int, dtype: type) -> Tensor:
    out = np.full((len(arrays), length, *arrays[0].shape[1:]), fill, dtype)
    for i, array in enumerate(arrays):
        out[i, : len(array)] = array
    return torch.from_numpy(out)
