"""What `c2s cache plan` projects: bytes and hours of a build, from one timed teacher pass."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

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
        images, teacher passes, measured passes per second, hours, and GiB by tier.
    """
    from c2s_pipeline.build import load_teacher
    from c2s_pipeline.request import BuildRequest

    request = resolve(BuildRequest, defaults, None, (), options)
    teacher, _ = load_teacher(request)
    images = len(source.ids)
    rate = _passes_per_second(teacher, min(request.batch_size, 8))
    passes = images * (1 + regions)
    tokens = teacher.grid[0] * teacher.grid[1]
    dense = {"none": 0, "int8": teacher.dim + 2, "float16": 2 * teacher.dim}[request.dense]
    lean = 2 * teacher.dim * (1 + regions) + tokens + 64
    return {
        "images": images,
        "teacher passes": round(passes),
        "passes per second": round(rate, 2),
        "hours on this device": round(passes / rate / 3600, 3),
        "GiB of tokens and masks": round(images * lean / 2**30, 3),
        "GiB of dense features": round(images * tokens * dense / 2**30, 3),
    }


def _passes_per_second(teacher: Any, batch: int) -> float:
    images = np.zeros((batch, teacher.image_size, teacher.image_size, 3), np.uint8)
    teacher.cls_tokens(images)
    started = time.perf_counter()
    teacher.cls_tokens(images).cpu()
    return batch / (time.perf_counter() - started)
