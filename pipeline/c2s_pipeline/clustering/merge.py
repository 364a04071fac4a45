"""Invariant: merging only ever groups whole clusters; no token changes its cluster."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def merge_clusters(
    features: NDArray[np.float32], threshold: float, literal: bool = False
) -> list[list[int]]:
    """Algorithm 1: group clusters whose features are similar.

    While the largest remaining cosine reaches the threshold, its row i is picked (ties: first in
    row-major order) and merged with every j whose cosine to i exceeds the threshold. As printed the
    algorithm never emits i itself, can pick i again, and loses clusters that have no partner. The
    default reading adds i to its group, takes i out afterwards, and keeps the clusters left over as
    groups of their own, so the result is a partition.

    Args:
        features: S_d, float32 [k, D].
        threshold: cosine threshold lambda.
        literal: follow the printed text instead of the default reading.

    Returns:
        Groups of cluster indices, each ascending: merged groups in the order found, then (default
        reading only) single clusters in ascending order.
    """
    unit = features.astype(np.float64)
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    groups: list[list[int]] = []
    while similarity.size and similarity.max() >= threshold:
        i, j = divmod(int(similarity.argmax()), len(similarity))
        members = np.flatnonzero(similarity[i] > threshold).tolist()
        if (
            literal and not members
        ):  # the cosine equals the threshold: the printed loop would not end
            similarity[i, j] = -np.inf
            continue
        if not literal:
            members = sorted([*members, i])
        groups.append(members)
        similarity[members, :] = -np.inf
        similarity[:, members] = -np.inf
    if not literal:
        merged = {c for group in groups for c in group}
        groups += [[c] for c in range(len(features)) if c not in merged]
    return groups
