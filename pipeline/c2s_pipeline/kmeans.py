"""Invariant: clustering starts from the given seeds and is deterministic, whatever the backend."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from c2s_pipeline.extras import require

BackendName = Literal["sklearn", "cuml"]


class KMeansBackend(Protocol):
    """Lloyd's algorithm from explicit centres.

    `fit` takes tokens float32 [n, D], centres float32 [k, D] with 1 <= k <= n, and the largest number
    of iterations; it returns the cluster of each token, intp [n].
    """

    def fit(
        self, tokens: NDArray[np.float32], centres: NDArray[np.float32], iterations: int
    ) -> NDArray[np.intp]: ...


class SklearnKMeans:
    """scikit-learn on the CPU, one thread: its threaded reduction does not add up in a fixed order."""

    def __init__(self) -> None:
        self._cluster = require("sklearn.cluster", "build")
        # Finding the loaded thread pools takes milliseconds, so it is done once.
        self._pools = require("threadpoolctl", "build").ThreadpoolController()

    def fit(
        self, tokens: NDArray[np.float32], centres: NDArray[np.float32], iterations: int
    ) -> NDArray[np.intp]:
        """See `KMeansBackend`."""
        kmeans = self._cluster.KMeans(
            len(centres), init=centres, n_init=1, max_iter=iterations, tol=0.0, algorithm="lloyd"
        )
        with self._pools.limit(limits=1):
            return np.asarray(kmeans.fit_predict(tokens), dtype=np.intp)


class CumlKMeans:
    """RAPIDS cuML on a GPU."""

    def __init__(self) -> None:
        self._cluster = require("cuml.cluster", "gpu")

    def fit(
        self, tokens: NDArray[np.float32], centres: NDArray[np.float32], iterations: int
    ) -> NDArray[np.intp]:
        """See `KMeansBackend`."""
        kmeans = self._cluster.KMeans(
            n_clusters=len(centres),
            init=centres,
            n_init=1,
            max_iter=iterations,
            tol=1e-12,
            output_type="numpy",
        )
        return np.asarray(kmeans.fit_predict(tokens), dtype=np.intp)


def create_backend(name: BackendName) -> KMeansBackend:
    """Create a clustering backend by name.

    Raises:
        MissingExtra: its library is not installed.
    """
    return SklearnKMeans() if name == "sklearn" else CumlKMeans()


def default_backend(device: torch.device) -> BackendName:
    """cuML where the build runs on a GPU, scikit-learn otherwise."""
    return "cuml" if device.type == "cuda" else "sklearn"


def cluster(
    tokens: NDArray[np.float32], seeds: NDArray[np.float32], iterations: int, backend: KMeansBackend
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """K-means from explicit seeds; clusters that attract no token are dropped (Sec. III-B).

    The first assignment is made here: seeds that win no token are dropped before the backend runs,
    which also keeps the number of clusters at or below the number of tokens.

    Args:
        tokens: float32 [n, D], n >= 1.
        seeds: float32 [S, D], S >= 1.
        iterations: largest number of Lloyd iterations.
        backend: clustering backend.

    Returns:
        cluster of each token, intp [n], numbered 0..k-1 without gaps in the order of the seeds; and
        the mean feature of each cluster S_d, float32 [k, D].
    """
    squared = (seeds**2).sum(1)[None] - 2.0 * tokens @ seeds.T
    first = squared.argmin(1)
    centres = np.ascontiguousarray(seeds[np.unique(first)])
    labels = backend.fit(np.ascontiguousarray(tokens), centres, iterations)
    used, labels = np.unique(labels, return_inverse=True)
    sums = np.zeros((len(used), tokens.shape[1]), np.float64)
    np.add.at(sums, labels, tokens)
    return labels, (sums / np.bincount(labels)[:, None]).astype(np.float32)
