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

    Images of like size are padded to the largest among them and masked. Sums over clusters are products with
    one-hot matrices, never scattered additions, so a run is reproducible on a GPU too. Empty clusters
    are moved to the tokens farthest from their centres, and an image stops when its labels do, both
    as in scikit-learn. A cluster that gives its only token away so is put on the biggest one; there
    scikit-learn may put it on that one's sum, and labels may differ.

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
        """See `c2s_pipeline.clustering.kmeans.KMeansBackend`."""
        found: list[NDArray[np.intp]] = [np.zeros(0, np.intp)] * len(tokens)
        for group in _groups([len(t) for t in tokens]):
            labels = self._fit([tokens[i] for i in group], [seeds[i] for i in group], iterations)
            for i, row in zip(group, labels, strict=True):
                found[i] = row[: len(tokens[i])]
        return found

    def _fit(
        self,
        tokens: Sequence[NDArray[np.float32]],
        seeds: Sequence[NDArray[np.float32]],
        iterations: int,
    ) -> NDArray[np.intp]:
        """Labels intp [B, n]; those of padding mean nothing."""
        points, real = self._pad(tokens)  # [B, n, D], [B, n]
        centres, valid = self._pad(seeds)  # [B, k, D], [B, k]
        # Distances around the mean of the tokens lose fewer digits.
        mean = points.sum(1, keepdim=True) / real.sum(1)[:, None, None]
        points = (points - mean) * real[..., None]
        centres = centres - mean
        first = _nearest(points, centres, valid)
        winners = _members(first, real, valid.shape[1]).any(2)
        centres, valid = _compact(centres, winners)  # seeds that win no token are dropped
        labels = (winners.cumsum(1) - 1).gather(1, first).clamp(min=0)
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
        return final.cpu().numpy().astype(np.intp)

    def _pad(self, arrays: Sequence[NDArray[np.float32]]) -> tuple[Tensor, Tensor]:
        """Arrays [n_i, D] as float32 [B, max n, D], zero where padded, and which rows are real."""
        lengths = np.array([len(a) for a in arrays])
        out = np.zeros((len(arrays), lengths.max(), arrays[0].shape[1]), np.float32)
        for row, array in zip(out, arrays, strict=True):
            row[: len(array)] = array
        real = np.arange(lengths.max()) < lengths[:, None]
        return torch.from_numpy(out).to(self.device), torch.from_numpy(real).to(self.device)


def _groups(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of images whose numbers of tokens round up to the same power of two."""
    groups: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        groups.setdefault((length - 1).bit_length(), []).append(i)
    return [groups[size] for size in sorted(groups)]


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
