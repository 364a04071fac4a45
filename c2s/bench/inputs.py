"""Invariant: a benchmark runs on real inputs: the cache that was named, one built for it, or Shapes scenes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2s.config import resolve
from c2s.datasets import load_dataset
from c2s.methods.registry import DEFAULT, stages_of
from c2s.shapes.defaults import build_defaults
from c2s.terminal import BuildBar
from c2s_cache import Cache, open_cache
from c2s_cache.label_map import without
from c2s_cache.picture import decode_image
from c2s_cache.views import canonical_box, crop_image, crop_labels
from c2s_pipeline.build.builder import build
from c2s_pipeline.build.request import BuildRequest, request_model
from c2s_pipeline.clustering.latent import ClusterSettings
from c2s_pipeline.clustering.seeds import annotated_cells, initial_seeds
from c2s_pipeline.teachers.base import Teacher
from c2s_pipeline.teachers.clip_names import RANDOM


def build_request(
    teacher: str | None, pretrained: str | None, dataset: str = "shapes", **options: Any
) -> BuildRequest:
    """Build settings of a data set; a teacher that is named has random weights unless they are too."""
    defaults = {
        "view_size": load_dataset(dataset).protocol.view_size,
        **build_defaults(dataset, teacher),
    }
    bundled = teacher is None and dataset == "shapes"
    weights = pretrained or (None if bundled or ":" in (teacher or "") else RANDOM)
    values = {"teacher": teacher, "pretrained": weights, **options}
    return resolve(request_model(), defaults, None, (), values)


@contextmanager
def cache_of(
    path: Path | None,
    images: int,
    teacher: str | None = None,
    pretrained: str | None = None,
    method: str = DEFAULT,
) -> Iterator[Cache]:
    """The cache at `path`, or else a temporary one of so many Shapes scenes, by the bundled teacher or
    the one that is named, for a method."""
    if path is not None:
        yield open_cache(path)
        return
    with TemporaryDirectory(prefix="c2s-bench-") as folder:
        out = Path(folder) / "shapes.zarr"
        source = load_dataset("shapes").split("train")
        request = build_request(teacher, pretrained, limit=images, stages=stages_of([method]))
        with BuildBar() as bar:
            build(source, request, out, progress=bar)
        yield open_cache(out)


def scenes(count: int, size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Shapes scenes as teachers see them: images uint8 [n, S, S, 3] and labels of seen classes [n, S, S]."""
    source = load_dataset("shapes").split("train")
    images, labels = [], []
    for name in source.ids[:count]:
        image = decode_image(source.encoded(name))
        box = canonical_box(image.shape[0], image.shape[1], size)
        known = without(source.labels(name), source.unseen)
        images.append(crop_image(image, box, False, size))
        labels.append(crop_labels(known, box, False, size))
    return np.stack(images), np.stack(labels)


def tokens_and_seeds(
    teacher: Teacher, settings: ClusterSettings, count: int, batch: int
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """Of Shapes scenes that have any: unannotated tokens [n, C], `batch` scenes a pass, and seeds [m, C]."""
    images, labels = scenes(count, teacher.dense_size)
    inside = np.ones(labels.shape[1:], bool)
    tokens, seeds = [], []
    for first in range(0, count, batch):
        dense = teacher.dense(images[first : first + batch])[1].cpu().numpy()
        for features, known in zip(dense, labels[first : first + batch], strict=True):
            closed = annotated_cells(known, inside, teacher.grid)
            found = initial_seeds(features, closed, settings.windows, settings.flush)
            if len(found):
                tokens.append(features[~closed])
                seeds.append(found)
    return tokens, seeds
