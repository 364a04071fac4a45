"""Invariant: latent ids of a view are 0..U-1 without gaps, a pure function of features and labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from c2s_cache import IGNORE, C2SError, ConfigError
from c2s_pipeline.clustering.kmeans import KMeansBackend, cluster
from c2s_pipeline.clustering.merge import merge_clusters
from c2s_pipeline.clustering.seeds import initial_seeds

MAX_LATENT = 254


class ClusterSettings(BaseModel):
    """Settings of pseudo-mask generation (Sec. III-B).

    `windows` are the sizes K of Eq. 2 in token cells, `flush` has the last of them end with the grid
    where Eq. 2 as printed leaves cells at its far edges in no window, `iterations` the cap on Lloyd iterations,
    `threshold` the merging threshold lambda (unpublished), `literal` the printed Algorithm 1,
    `unit_norm` clusters tokens of unit length instead of raw ones.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    windows: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(3, 7), min_length=1)
    iterations: int = Field(default=10, ge=1)
    threshold: float = Field(default=0.9, ge=0.0, le=1.0)
    literal: bool = False
    unit_norm: bool = False
    flush: bool = False


def check_windows(config: ClusterSettings, grid: tuple[int, int]) -> None:
    """Refuse windows of which none fits the teacher's token grid (h, w).

    Raises:
        ConfigError: none fits.
    """
    if min(config.windows) > min(grid):
        raise ConfigError(
            f"no window of {config.windows} fits the {grid[0]} x {grid[1]} token grid.",
            "Choose smaller windows or a larger --dense-size.",
        )


def latent_grids(
    dense: NDArray[np.float32],
    annotated: NDArray[np.bool_],
    config: ClusterSettings,
    backend: KMeansBackend,
) -> NDArray[np.uint8]:
    """Latent class of every token cell: seeds (Eq. 2), K-means over unannotated tokens, Algorithm 1.

    Args:
        dense: C_d, float32 [B, h, w, D].
        annotated: bool [B, h, w], cells closed to clustering.
        config: settings.
        backend: K-means backend, which takes the views of the batch together.

    Returns:
        uint8 [B, h, w]: latent id 0..U-1, or 255 for closed cells (and, under the literal Algorithm 1,
        for cells of clusters it loses).
    """
    return merged_grids(annotated, clusters(dense, annotated, config, backend), config)


Clusters = tuple[NDArray[np.intp], NDArray[np.float32]]
"""Cluster of each open cell of a view, intp [n], row-major, and the mean features float32 [k, D]."""


def clusters(
    dense: NDArray[np.float32],
    annotated: NDArray[np.bool_],
    config: ClusterSettings,
    backend: KMeansBackend,
) -> list[Clusters | None]:
    """The part of `latent_grids` before merging: per view its clusters, None without a seed.

    It does not depend on `threshold` and `literal`.
    """
    features = dense
    if config.unit_norm:
        features = dense / np.maximum(np.linalg.norm(dense, axis=-1, keepdims=True), 1e-12)
    seeds = [
        initial_seeds(f, a, config.windows, config.flush)
        for f, a in zip(features, annotated, strict=True)
    ]
    views = [i for i, s in enumerate(seeds) if len(s)]
    tokens = [features[i][~annotated[i]] for i in views]
    found = cluster(tokens, [seeds[i] for i in views], config.iterations, backend)
    by_view = dict(zip(views, found, strict=True))
    return [by_view.get(i) for i in range(len(dense))]


def merged_grids(
    annotated: NDArray[np.bool_], found: Sequence[Clusters | None], config: ClusterSettings
) -> NDArray[np.uint8]:
    """The part of `latent_grids` after clustering: Algorithm 1, uint8 [B, h, w]."""
    grids = np.full(annotated.shape, IGNORE, np.uint8)
    for grid, closed, view in zip(grids, annotated, found, strict=True):
        if view is not None:
            labels, centres = view
            grid[~closed] = _merged(centres, config)[labels]
    return grids


def _merged(centres: NDArray[np.float32], config: ClusterSettings) -> NDArray[np.uint8]:
    """Latent id of every cluster, uint8 [k]; 255 for those that the literal Algorithm 1 loses."""
    groups = merge_clusters(centres, config.threshold, config.literal)
    if len(groups) > MAX_LATENT:
        raise C2SError(
            f"clustering left {len(groups)} latent classes in one view; a cache holds at most {MAX_LATENT}.",
            "Lower the merging threshold.",
        )
    latent = np.full(len(centres), IGNORE, np.uint8)
    for number, group in enumerate(groups):
        latent[group] = number
    return latent
