"""Invariant: a view on which masks are scored has the whole truth, which no build has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from c2s_cache import Cache, ConfigError, DataError, Sample
from c2s_cache.label_map import size_mismatch, without
from c2s_cache.picture import decode_image
from c2s_cache.views import Box, canonical_box, crop_image, crop_labels, inside_image
from c2s_pipeline.source import ImageSource, SplitInfo
from c2s_pipeline.stages.dense import TOKENS, stores_float16
from c2s_pipeline.stages.views import BOX, FLIP
from c2s_pipeline.teachers.base import Teacher


@dataclass(frozen=True)
class TrueView:
    """A view of an image: the true label map uint8 [H, W] of the whole image, the view's box and whether it is
    mirrored, and its dense features float32 [h, w, C]."""

    labels: NDArray[np.uint8]
    box: Box | NDArray[np.float64]
    flip: bool
    tokens: NDArray[np.float32]

    def truth(self, size: int, hidden: Sequence[int] = ()) -> NDArray[np.uint8]:
        """Its labels at `size` pixels, without those of hidden classes."""
        return crop_labels(without(self.labels, hidden), self.box, self.flip, size)

    def inside(self, size: int) -> NDArray[np.bool_]:
        """Where it shows the image."""
        height, width = self.labels.shape
        return inside_image(height, width, self.box, self.flip, size)


def teacher_views(
    source: ImageSource, teacher: Teacher, limit: int | None = None, batch_size: int = 32
) -> Iterator[list[TrueView]]:
    """Canonical views of a split, with the teacher's dense features rounded to float16, in batches.

    Args:
        source: labelled split; its truth is read.
        teacher: gives the dense features.
        limit: only the first so many images.
        batch_size: images per teacher pass.

    Raises:
        ConfigError: there is no image.
        DataError, UnreadableImage: an image or label map cannot be read.
    """
    ids = list(source.ids)[:limit]
    if not ids:
        raise ConfigError(f"There is no image of {source.name} to score masks on.")
    info = teacher.info()
    for start in range(0, len(ids), batch_size):
        pixels, places = [], []
        for image_id in ids[start:][:batch_size]:
            image, labels = decode_image(source.encoded(image_id)), source.labels(image_id)
            if (what := size_mismatch(labels, image.shape[0], image.shape[1])) is not None:
                raise DataError(f"{image_id}: {what}")
            height, width = image.shape[:2]
            box = canonical_box(height, width, info.image_size, info.resize_mode)
            pixels.append(crop_image(image, box, False, info.dense_size, info.interpolation))
            places.append((labels, box))
        tokens = teacher.dense(np.stack(pixels))[1].cpu().numpy()
        rounded = tokens.astype(np.float16).astype(np.float32)
        yield [
            TrueView(labels, box, False, t)
            for (labels, box), t in zip(places, rounded, strict=True)
        ]


def cached_views(
    cache: Cache, source: ImageSource, limit: int | None = None, batch_size: int = 32
) -> Iterator[list[TrueView]]:
    """All views of the images of a cache with the dense features that it stores, in batches; no teacher is needed.

    Args:
        cache: complete cache with the float16 tier.
        source: the split it was built from; its truth is read.
        limit: only the first so many rows.
        batch_size: views of a batch.

    Raises:
        ConfigError: the cache is of another data set or split, or has no such tier.
        DataError: a label map cannot be read.
    """
    require_source(cache, source)
    if not stores_float16(cache.manifest):
        raise ConfigError(
            f"{cache} holds no dense features in float16, so other settings cannot be tried on them.",
            f"Derive one that does: c2s cache derive {cache} --dense float16 --out NEW",
        )
    views: list[TrueView] = []
    left = cache.manifest.rows if limit is None else limit
    for sample, labels in cached_samples(cache, source, (TOKENS, BOX, FLIP)):
        if sample.view == 0:
            left -= 1
        if left < 0:
            break
        tokens = sample[TOKENS].astype(np.float32)
        views.append(TrueView(labels, sample[BOX], bool(sample[FLIP]), tokens))
        if len(views) == batch_size:
            yield views
            views = []
    if views:
        yield views


def cached_samples(
    cache: Cache, source: ImageSource, paths: Sequence[str]
) -> Iterator[tuple[Sample, NDArray[np.uint8]]]:
    """Every view of a cache, with the true label map of its image."""
    for number in range(cache.blocks):
        block, ids = cache.read_block(number, paths), cache.ids(number)
        for i, row in enumerate(block.rows.tolist()):
            truth = source.labels(ids[row - block.start])
            for view in range(cache.manifest.views):
                yield block.sample(i, view), truth


def require_source(cache: Cache, source: SplitInfo) -> None:
    m = cache.manifest
    if (m.classes, m.split) != (source.classes, source.split):
        raise ConfigError(
            f"{cache} holds {m.dataset} {m.split}, not {source.name} {source.split}; "
            "its masks can only be scored on its own images."
        )
