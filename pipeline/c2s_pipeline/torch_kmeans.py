"""Invariant: a batch of images is clustered as scikit-learn clusters each of them, in a fixed order of sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class TorchKMeans:
    """Lloyd's algorithm on a batch of images at once, each with its own number of tokens and seeds.

    Images are padded to the largest of the batch and masked. Sums over clusters are products with
    one-hot matrices, never scattered additions, so a run is reproducible on a GPU too. Empty clusters
    are moved to the tokens farthest from their centres, and an image stops when its labels do, both
    as in scikit-learn.

    Args:
        device: where to compute.
    """

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)

    @torch.inference_mode()
    def fit(
        self,
        tokens: Sequence[NDArray[np.float32]],
        seeds: Sequence[NDArray[np.float32]],
        iterations: int,
    ) -> list[NDArray[np.intp]]:
        """See `c2s_pipeline.kmeans.KMeansBackend`."""
        if not tokens:
            return []
        points, real = self._pad(tokens)  # [B, n, D], [B, n]
        centres, valid = self._pad(seeds)  # [B, k, D], [B, k]
        # Distances around the mean of the tokens lose fewer digits.
        mean = points.sum(1, keepdim=True) / real.sum(1)[:, None, None]
        points = (points - mean) * real[..., None]
        centres = centres - mean
        winners = _members(_nearest(points, centres, valid), real, valid.shape[1]).any(2)
        centres, valid = _compact(centres, winners)  # seeds that win no token are dropped
        labels = _nearest(points, centres, valid)
        final = labels.clone()
        alive = torch.arange(len(tokens), device=self.device)  # images whose labels still change
        for _ in range(iterations):
            centres = _means(points, real, labels, centres, valid)
            moved = _nearest(points, centres, valid)
            final[alive] = moved
            changed = ((moved != labels) & real).any(1)
            if not changed.any():
                break
            labels = moved
            if not changed.all():
                state = (points, real, labels, centres, valid, alive)
                points, real, labels, centres, valid, alive = (t[changed] for t in state)
        host = final.cpu().numpy().astype(np.intp)
        return [row[: len(t)] for row, t in zip(host, tokens, strict=True)]

    def _pad(self, arrays: Sequence[NDArray[np.float32]]) -> tuple[Tensor, Tensor]:
        """Arrays [n_i, D] as float32 [B, max n, D], zero where padded, and which rows are real."""
        lengths = np.array([len(a) for a in arrays])
        out = np.zeros((len(arrays), lengths.max(), arrays[0].shape[1]), np.float32)
        for row, array in zip(out, arrays, strict=True):
            row[: len(array)] = array
        real = np.arange(lengths.max()) < lengths[:, None]
        return torch.from_numpy(out).to(self.device), torch.from_numpy(real).to(self.device)


def _nearest(points: Tensor, centres: Tensor, valid: Tensor) -> Tensor:
    """Index of the nearest valid centre of each point, the first of equals: int64 [B, n]."""
    squared = centres.square().sum(2).masked_fill(~valid, float("inf"))
    return torch.baddbmm(squared[:, None], points, centres.mT, alpha=-2).argmin(2)


def _compact(centres: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Valid centres first, in their order, without the columns that no image needs."""
    order = (~valid).to(torch.uint8).argsort(dim=1, stable=True)[:, : int(valid.sum(1).max())]
    return centres.take_along_dim(order[..., None], 1), valid.take_along_dim(order, 1)


def _members(labels: Tensor, real: Tensor, clusters: int) -> Tensor:
    """Which points belong to each cluster: bool [B, k, n]."""
    ids = torch.arange(clusters, device=labels.device)
    return (labels[:, None] == ids[:, None]) & real[:, None]


def _means(points: Tensor, real: Tensor, labels: Tensor, centres: Tensor, valid: Tensor) -> Tensor:
    """New centres [B, k, D]: the mean of each cluster's points, empty clusters relocated."""
    members = _members(labels, real, valid.shape[1]).to(points.dtype)
    sums, counts = members @ points, members.sum(2)
    empty = valid & (counts == 0)
    if empty.any():
        for image in empty.any(1).nonzero().flatten().tolist():
            old = centres[image, labels[image]]
            distance = (points[image] - old).square().sum(1)[real[image]]
            _relocate(
                points[image], labels[image], distance, empty[image], sums[image], counts[image]
            )
    biggest = counts.argmax(1, keepdim=True)
    means = sums / counts.clamp(min=1)[..., None]
    # Where every token sits on its centre, relocating is pointless: empty ones join the biggest.
    still = (valid & (counts == 0))[..., None]
    return torch.where(still, means.take_along_dim(biggest[..., None], 1), means)


def _relocate(
    points: Tensor, labels: Tensor, distance: Tensor, empty: Tensor, sums: Tensor, counts: Tensor
) -> None:
    """Move one image's empty clusters to the points farthest from their centres, in place.

    The order among the farthest is that of numpy's partition, which scikit-learn takes too.
    """
    host: NDArray[Any] = distance.cpu().numpy()
    if host.max() == 0:
        return
    clusters = empty.nonzero().flatten().tolist()
    farthest = np.argpartition(host, -len(clusters))[: -len(clusters) - 1 : -1]
    for cluster, point in zip(clusters, farthest.tolist(), strict=True):
        donor = int(labels[point])
        sums[donor] -= points[point]
        counts[donor] -= 1
        sums[cluster] = points[point]
        counts[cluster] = 1
