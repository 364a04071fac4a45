"""Invariant: clustering starts from the given seeds and is deterministic, whatever the backend."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from c2s_pipeline.extras import require

if TYPE_CHECKING:
    import torch

BackendName = Literal["torch", "sklearn", "cuml"]
Sets = Sequence[NDArray[np.float32]]
"""Vectors float32 [n, D] of each image."""


@runtime_checkable
class KMeansBackend(Protocol):
    """Lloyd's algorithm from explicit seeds, for a batch of images.

    `fit` takes per image tokens float32 [n, D] with n >= 1 and seeds float32 [s, D] with s >= 1, and
    the largest number of iterations; it returns per image the cluster of each token, intp [n], as the
    index of a seed or of one of those that are left when seeds that win no token at first are dropped.
    """

    def fit(self, tokens: Sets, seeds: Sets, iterations: int) -> list[NDArray[np.intp]]: ...


class SklearnKMeans:
    """scikit-learn on the CPU, one thread: its threaded reduction does not add up in a fixed order."""

    def __init__(self) -> None:
        self._cluster = require("sklearn.cluster", "build")
        self._warning = require("sklearn.exceptions", "build").ConvergenceWarning
        # Finding the loaded thread pools takes milliseconds, so it is done once.
        self._pools = require("threadpoolctl", "build").ThreadpoolController()

    def fit(self, tokens: Sets, seeds: Sets, iterations: int) -> list[NDArray[np.intp]]:
        """See `KMeansBackend`."""
        with self._pools.limit(limits=1):
            return [self._fit(t, s, iterations) for t, s in zip(tokens, seeds, strict=True)]

    def _fit(
        self, tokens: NDArray[np.float32], seeds: NDArray[np.float32], iterations: int
    ) -> NDArray[np.intp]:
        centres = winning(tokens, seeds)
        kmeans = self._cluster.KMeans(
            len(centres), init=centres, n_init=1, max_iter=iterations, tol=0.0, algorithm="lloyd"
        )
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", self._warning
            )  # clusters may run empty: they are dropped
            return np.asarray(kmeans.fit_predict(tokens), dtype=np.intp)


class CumlKMeans:
    """RAPIDS cuML on a GPU, image by image."""

    def __init__(self) -> None:
        self._cluster = require("cuml.cluster", "gpu")

    def fit(self, tokens: Sets, seeds: Sets, iterations: int) -> list[NDArray[np.intp]]:
        """See `KMeansBackend`."""
        return [self._fit(t, s, iterations) for t, s in zip(tokens, seeds, strict=True)]

    def _fit(
        self, tokens: NDArray[np.float32], seeds: NDArray[np.float32], iterations: int
    ) -> NDArray[np.intp]:
        centres = winning(tokens, seeds)
        kmeans = self._cluster.KMeans(
            n_clusters=len(centres),
            init=centres,
            n_init=1,
            max_iter=iterations,
            tol=1e-12,
            output_type="numpy",
        )
        return np.asarray(kmeans.fit_predict(np.ascontiguousarray(tokens)), dtype=np.intp)


def create_backend(name: BackendName, device: str | torch.device = "cpu") -> KMeansBackend:
    """Create a clustering backend by name.

    Args:
        name: of the backend.
        device: where the torch backend computes.

    Raises:
        MissingExtra: its library is not installed.
    """
    if name == "torch":
        from c2s_pipeline.clustering.torch_kmeans import TorchKMeans

        return TorchKMeans(device)
    return SklearnKMeans() if name == "sklearn" else CumlKMeans()


def winning(tokens: NDArray[np.float32], seeds: NDArray[np.float32]) -> NDArray[np.float32]:
    """The seeds that are nearest to at least one token, so at most as many as tokens: [k, D]."""
    squared = (seeds**2).sum(1)[None] - 2.0 * tokens @ seeds.T
    return np.ascontiguousarray(seeds[np.unique(squared.argmin(1))])


def cluster(
    tokens: Sets, seeds: Sets, iterations: int, backend: KMeansBackend
) -> list[tuple[NDArray[np.intp], NDArray[np.float32]]]:
    """K-means of a batch of images from explicit seeds; empty clusters are dropped (Sec. III-B).

    Args:
        tokens: per image float32 [n, D], n >= 1.
        seeds: per image float32 [s, D], s >= 1.
        iterations: largest number of Lloyd iterations.
        backend: clustering backend.

    Returns:
        Per image the cluster of each token, intp [n], numbered 0..k-1 without gaps in the order of
        the seeds, and the mean feature of each cluster S_d, float32 [k, D].
    """
    found = backend.fit(tokens, seeds, iterations)
    return [_means(labels, points) for labels, points in zip(found, tokens, strict=True)]


def _means(
    labels: NDArray[np.intp], tokens: NDArray[np.float32]
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Labels without gaps, and the mean of each cluster, summed in float64 in the order of tokens."""
    _, labels, counts = np.unique(labels, return_inverse=True, return_counts=True)
    order = labels.argsort(kind="stable")
    starts = np.cumsum(counts) - counts
    sums = np.add.reduceat(tokens[order], starts, axis=0, dtype=np.float64)
    return labels, (sums / counts[:, None]).astype(np.float32)
