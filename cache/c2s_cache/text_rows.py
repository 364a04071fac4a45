"""Invariant: no two classes have the same text embedding; pixels could not tell them apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from c2s_cache.errors import ConfigError

SAME = 1e-5
"""Distance of unit vectors up to which a text tower read the same tokens: passes of other batches differ by 1e-6."""
HINT = (
    "It reads names in lower case, knows none but its own words, and cuts long ones: write them shorter or otherwise, "
    'or as names of one class: "a | b".'
)


def require_told_apart(
    names: Sequence[str], rows: NDArray[np.floating], owners: Sequence[int], where: str
) -> None:
    """Refuse names of different classes that have one text embedding.

    Args:
        names: M of them.
        rows: float [M, D] of unit norm.
        owners: class of each name.
        where: they are given, for messages.

    Raises:
        ConfigError: naming the first two.
    """
    wide = np.asarray(rows, np.float64)
    direction = np.random.default_rng(0).standard_normal(wide.shape[1])
    along = wide @ (direction / np.linalg.norm(direction))  # no farther apart than the rows are
    order = np.argsort(along, kind="stable")
    for step in range(1, len(order)):
        near = np.flatnonzero(along[order[step:]] - along[order[:-step]] <= SAME)
        if not near.size:
            return
        for i, j in zip(order[near].tolist(), order[near + step].tolist(), strict=True):
            if owners[i] != owners[j] and np.linalg.norm(wide[i] - wide[j]) <= SAME:
                first, second = sorted((i, j))
                raise ConfigError(
                    f"{where}: the text tower cannot tell {_ends(names[first])!r} from {_ends(names[second])!r}.",
                    HINT,
                )


def _ends(name: str) -> str:
    """A name, of a long one both ends."""
    return name if len(name) <= 80 else f"{name[:37]} ... {name[-37:]}"
