"""Invariant: a training example follows from what the cache holds of a view, pixel for pixel as the builder cut it.

Where the pixels of a view lie in a cache is written here; what a method reads beside them, in its own folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from c2s.methods.batch import Batch
from c2s_cache.block import Sample
from c2s_cache.manifest import IGNORE, Interpolation
from c2s_cache.picture import decode_image
from c2s_cache.views import Crop, crop, crop_image, crop_labels

IMAGE, SIZE, LABELS, BOX, FLIP = (
    *("images/data", "images/size", "labels/data"),
    *("views/box", "views/flip"),
)
PIXELS = frozenset({IMAGE, SIZE, LABELS, BOX, FLIP})
"""What cutting a view needs; a cache without labels has none to cut."""
IGNORED = "labels/ignored"
"""Pixels that the data set itself ignores: for a self-training and nothing else."""

CLIP = "clips/clip"
"""Rows of one value are frames of one clip."""

TeacherOutput = Mapping[str, NDArray[Any]]
"""What the teacher says of one view: array path -> what a cache holds there."""


Look = tuple[int, Interpolation]
"""How an online teacher sees a view: side in pixels, and how it is resampled to that."""


@dataclass(frozen=True)
class CutView:
    """A view as a loader process cuts it, without the teacher's part.

    `sample` as stored (without the encoded image where `images` are there); `crop` the view at the
    student's size, 255 for labels that the cache does not have; `images` uint8 [s, s, 3], the view as
    an online teacher sees it; `jitter` float32 [5] or None, see `draw_jitter`.
    """

    sample: Sample
    crop: Crop
    images: tuple[NDArray[np.uint8], ...] = ()
    jitter: NDArray[np.float32] | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingExample:
    """One view in numpy; fields as in `Batch`, without the batch axis. A method's own has more."""

    image: NDArray[np.uint8]
    extent: NDArray[np.int64]
    jitter: NDArray[np.float32] | None = None


E = TypeVar("E", bound=TrainingExample)


class Examples(Protocol[E]):
    """How a method learns from a cache, on the side of the loader: small, picklable, numpy until a batch.

    Attributes:
        paths: arrays that it reads.
        teacher_paths: those of them that an online teacher says instead.
        pixel_bytes: what an example holds for each pixel of its view, in bytes; the rest is small beside it.
    """

    paths: frozenset[str]
    teacher_paths: frozenset[str]
    pixel_bytes: int

    def example(self, view: CutView, teacher: TeacherOutput) -> E:
        """A view and what the teacher says of it, joined."""

    def collate(self, examples: Sequence[E]) -> Batch:
        """Stack at least one."""


def source_map(sample: Sample, path: str) -> NDArray[Any]:
    """A map that has one value for each pixel of the source image, [H, W]."""
    values: NDArray[Any] = sample[path].reshape(sample[SIZE])
    return values


def source_labels(sample: Sample) -> NDArray[np.uint8]:
    """The label map of the source image, uint8 [H, W]; of a cache without labels nothing is annotated."""
    if LABELS in sample:
        return source_map(sample, LABELS)
    return np.full(sample[SIZE], IGNORE, np.uint8)


def cut_view(
    sample: Sample,
    size: int,
    looks: tuple[Look, ...] = (),
) -> CutView:
    """Decode and cut a cached view, exactly as the builder cut it for the teacher; not distorted.

    Args:
        sample: as stored, with `PIXELS`.
        size: S, side of the student's view in pixels.
        looks: how an online teacher sees them.

    Raises:
        UnreadableImage: the stored bytes cannot be decoded.
    """
    image = decode_image(sample[IMAGE].tobytes())
    box, flip = sample[BOX], bool(sample[FLIP])
    view = crop(image, source_labels(sample), box, flip, size)
    if not looks:
        return CutView(sample, view)
    arrays = {path: values for path, values in sample.arrays.items() if path != IMAGE}
    images = tuple(crop_image(image, box, flip, *look) for look in looks)
    return CutView(replace(sample, arrays=arrays), view, images)


def view_fields(view: CutView) -> dict[str, Any]:
    """The fields of `TrainingExample` that follow from the view alone."""
    return {"image": view.crop.image, "extent": _extent(view.crop.inside), "jitter": view.jitter}


def _extent(inside: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Top, left, bottom, right of the part of a view that shows the image: int64 [4], zeros if none."""
    if inside.all():
        return np.array((0, 0, *inside.shape), np.int64)
    rows, cols = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    edges = (rows[0], cols[0], rows[-1] + 1, cols[-1] + 1) if len(rows) else (0, 0, 0, 0)
    return np.array(edges, np.int64)


def batch_fields(examples: Sequence[TrainingExample]) -> dict[str, Any]:
    """The fields of `Batch`, stacked."""
    jitter = [e.jitter for e in examples if e.jitter is not None]
    return {
        "image": torch.from_numpy(
            np.stack([e.image for e in examples]).transpose(0, 3, 1, 2).copy()
        ),
        "extent": torch.from_numpy(np.stack([e.extent for e in examples])),
        "jitter": torch.from_numpy(np.stack(jitter)) if jitter else None,
    }


def stacked(arrays: Sequence[NDArray[Any]], dtype: type) -> Tensor:
    """Arrays of one shape [...] as a tensor [B, ...] of another type."""
    # Converted here, not by torch, which would wake the threads that the training step is using.
    return torch.from_numpy(np.stack(arrays, dtype=dtype))


def unseen_pixels(view: CutView) -> NDArray[np.bool_] | None:
    """Pixels of a view without a label that the data set has one for: bool [S, S]; None if not known."""
    sample, labels = view.sample, view.crop.labels
    if IGNORED not in sample:
        return None
    ignored = source_map(sample, IGNORED).view(np.uint8)
    # 0 or 1, and 255 on padding
    shown = crop_labels(ignored, sample[BOX], bool(sample[FLIP]), labels.shape[0])
    unseen: NDArray[np.bool_] = (labels == IGNORE) & (shown == 0)
    return unseen


def padded(arrays: Sequence[NDArray[Any]], fill: int, dtype: type) -> Tensor:
    """Arrays [n, ...] as a tensor [B, R, ...], filled up to the largest n among them, at least 1."""
    length = max(1, *(len(array) for array in arrays))
    out = np.full((len(arrays), length, *arrays[0].shape[1:]), fill, dtype)
    for i, array in enumerate(arrays):
        out[i, : len(array)] = array
    return torch.from_numpy(out)
