"""K-means of many images: the default backend against scikit-learn image by image."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from c2s.bench.inputs import build_request, tokens_and_seeds
from c2s.bench.measure import Side, alternate, device_name, result
from c2s_cache import MissingExtra
from c2s_pipeline.clustering.kmeans import BackendName, KMeansBackend, create_backend
from c2s_pipeline.devices import default_device
from c2s_pipeline.stages.masks import MaskSettings
from c2s_pipeline.teachers.base import TeacherSpec
from c2s_pipeline.teachers.registry import load_teacher


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
    tokens, seeds = tokens_and_seeds(model, masks, images, request.batch_size)
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
