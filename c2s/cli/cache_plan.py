"""What `c2s cache plan` projects: bytes and hours of a build, from timed teacher passes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from c2s.config import resolve
from c2s_pipeline.source import ImageSource


def plan_build(
    source: ImageSource,
    defaults: Mapping[str, Any],
    options: Mapping[str, Any],
    regions: float,
) -> dict[str, Any]:
    """Project a build.

    Args:
        source: the data set split.
        defaults: the data set's build defaults.
        options: command-line options by field name of `BuildRequest`.
        regions: expected regions per image.

    Returns:
        images, views per image, teacher passes, measured passes per second, hours, and GiB by tier.
    """
    from c2s_pipeline.build import load_teacher
    from c2s_pipeline.request import BuildRequest

    request = resolve(BuildRequest, defaults, None, (), options)
    teacher, _ = load_teacher(request)
    images = len(source.ids)
    views, batch = images * request.views, min(request.batch_size, 8)
    same = teacher.dense_size == teacher.image_size  # then one pass gives CLS and dense features
    small = _seconds(teacher.cls_tokens, teacher.image_size, batch)
    large = _seconds(teacher.dense_features, teacher.dense_size, batch)
    others = regions + (0 if same else 1)
    passes, seconds = views * (1 + others), views * (large + others * small)
    tokens = teacher.grid[0] * teacher.grid[1]
    width = teacher.dense_dim
    dense = {"none": 0, "int8": width + 2, "float16": 2 * width}[request.dense]
    lean = 2 * teacher.dim * (1 + regions) + tokens + 64
    return {
        "images": images,
        "views per image": request.views,
        "teacher passes": round(passes),
        "passes per second": round(passes / seconds, 2),
        "hours on this device": round(seconds / 3600, 3),
        "GiB of tokens and masks": round(views * lean / 2**30, 3),
        "GiB of dense features": round(views * tokens * dense / 2**30, 3),
    }


def _seconds(forward: Callable[[NDArray[np.uint8]], Any], size: int, batch: int) -> float:
    """Seconds per image of a teacher pass over black images of that size, after one to warm up."""
    images = np.zeros((batch, size, size, 3), np.uint8)
    forward(images)
    started = time.perf_counter()
    answer = forward(images)
    (answer if isinstance(answer, Tensor) else answer[0]).cpu()
    return (time.perf_counter() - started) / batch
