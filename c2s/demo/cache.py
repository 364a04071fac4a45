"""The demo's caches of Shapes: what several methods read stands side by side in one of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from c2s.config import resolve
from c2s.datasets import load_dataset
from c2s.shapes.defaults import BUILD
from c2s.terminal import BuildBar
from c2s_cache import Cache, CacheError
from c2s_cache.manifest import USABLE
from c2s_pipeline.build.builder import BuildReport, build
from c2s_pipeline.build.request import BuildRequest, request_model
from c2s_pipeline.stages.registry import closed, recorded_stages


def build_cache(
    path: Path, stages: Iterable[str], settings: Mapping[str, Any], images: int | None = None
) -> tuple[BuildRequest, BuildReport]:
    """Build the cache of the training scenes, or add to the one that is there what it lacks.

    Args:
        path: of the cache.
        stages: that it is to have; those that it has beside them stay.
        settings: nested values of a build above those of Shapes.
        images: scenes; None: all.

    Returns:
        What the cache was made by, and what had to be done.

    Raises:
        CacheError: there is a cache of other settings.
    """
    data, had = load_dataset("shapes").split("train"), tuple[str, ...]()
    with suppress(CacheError):  # what is no cache is the build's to say
        had = Cache(path).manifest.stage_names
    wanted = tuple(dict.fromkeys((*had, *stages)))

    def request(names: Iterable[str]) -> BuildRequest:
        return resolve(
            request_model(), BUILD, None, (), {**settings, "limit": images, "stages": tuple(names)}
        )

    with BuildBar() as bar:
        if had and set(closed(wanted)) > set(had):
            build(data, request(had), path, progress=bar)  # or refused, before it is changed
            report = build(data, request(wanted), path, progress=bar, update=True)
        else:
            report = build(data, request(wanted), path, progress=bar)
    return request(wanted), report


def passes_an_image(path: Path, stages: Iterable[str]) -> float:
    """Images that went through the teacher's tower for some stages of a cache and all that these are made of, a
    usable image."""
    cache, counted = Cache(path), dict[str, int]()
    of_these = cache.manifest.fingerprints_of(stages)
    for name, stage in recorded_stages(cache.manifest).items():
        counted |= stage.passes(cache) if name in of_these else {}
    return sum(counted.values()) / np.count_nonzero(cache.column(USABLE))
