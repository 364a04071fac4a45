"""K-means of many images: the default backend against scikit-learn image by image."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from c2s.bench.inputs import build_request
from c2s.bench.measure import Side, alternate, device_name, result
from c2s.datasets import load_dataset
from c2s_cache import MissingExtra
from c2s_cache.label_map import without
from c2s_cache.picture import decode_image
from c2s_cache.views import canonical_box, crop_image, crop_labels
from c2s_pipeline.clustering.kmeans import BackendName, KMeansBackend, create_backend
from c2s_pipeline.clustering.latent import ClusterSettings
from c2s_pipeline.clustering.seeds import annotated_cells, initial_seeds
from c2s_pipeline.devices import default_device
from c2s_pipeline.stages.masks import MaskSettings
from c2s_pipeline.teachers.base import Teacher, TeacherSpec
from c2s_pipeline.teachers.registry import load_teacher

Arrays = list[NDArray[np.float32]]


def bench_cluster(
    teacher: str | None = None,
    pretrained: str | None = None,
    images: int = 200,
    rounds: int = 5,
    advance: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Images per second of clustering alone, on the tokens and seeds of Shapes scenes.

    Args:
        teacher, pretrained: whose tokens; default the bundled teacher, else random weights.
        images: scenes.
        rounds: timed rounds of every backend.
        advance: called after every round.
    """
    request = build_request(teacher, pretrained)
    device = default_device()
    model = load_teacher(TeacherSpec(request.teacher, request.pretrained), device)
    masks: MaskSettings = request.stage("masks").settings
    tokens, seeds = _inputs(model, masks, images, request.batch_size)
    steps = [*range(0, len(tokens), request.batch_size), len(tokens)]

    def side(backend: KMeansBackend) -> Side:
        def run() -> int:
            for a, b in pairwise(steps):
                backend.fit(tokens[a:b], seeds[a:b], masks.iterations)
            return len(tokens)

        return run

    sides: dict[str, Side] = {masks.backend: side(create_backend(masks.backend, device))}
    others: tuple[BackendName, ...] = ("sklearn", "cuml") if device == "cuda" else ("sklearn",)
    for name in others:
        try:
            sides[name] = side(create_backend(name))
        except MissingExtra:
            continue
    rates = alternate(sides, rounds, advance=advance)
    cuml = {"cuml": rates["cuml"].median} if "cuml" in rates else {}
    what = {
        "teacher": request.teacher.rpartition("/")[2],
        "images": len(tokens),
        "tokens per image": round(float(np.mean([len(t) for t in tokens])), 1),
        "seeds per image": round(float(np.mean([len(s) for s in seeds])), 1),
        "width": model.dim,
        "batch": request.batch_size,
        "device": device_name(),
        "threads": torch.get_num_threads(),
    }
    return result("cluster", rates, masks.backend, "sklearn", "images/s", what, **cuml)


def _inputs(
    teacher: Teacher, config: ClusterSettings, images: int, batch: int
) -> tuple[Arrays, Arrays]:
    """Unannotated tokens and seeds of scenes that have any."""
    source = load_dataset("shapes").split("train")
    size = teacher.dense_size
    tokens: Arrays = []
    seeds: Arrays = []
    ids = source.ids[:images]
    for start in range(0, len(ids), batch):
        pictures, closed = [], []
        for image_id in ids[start : start + batch]:
            image = decode_image(source.encoded(image_id))
            box = canonical_box(image.shape[0], image.shape[1], size)
            labels = without(source.labels(image_id), source.unseen)
            cut = crop_labels(labels, box, False, size)
            closed.append(annotated_cells(cut, np.ones(cut.shape, bool), teacher.grid))
            pictures.append(crop_image(image, box, False, size))
        _, dense = teacher.dense(np.stack(pictures))
        for features, cells in zip(dense.cpu().numpy(), closed, strict=True):
            found = initial_seeds(features, cells, config.windows, config.flush)
            if len(found):
                tokens.append(features[~cells])
                seeds.append(found)
    return tokens, seeds
