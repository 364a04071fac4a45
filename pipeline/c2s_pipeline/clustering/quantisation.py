"""Invariant: the error of a dense tier follows from the teacher's tokens alone, like the tier itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2s_pipeline.clustering.kmeans import cluster, create_backend
from c2s_pipeline.clustering.seeds import initial_seeds

WINDOW, ITERATIONS = 3, 10
"""Clustering by which tiers are judged, whatever the settings of the masks: of all tokens of a view."""


@dataclass(frozen=True)
class QuantisationError:
    """How far a dense tier is from the teacher's float32 tokens, summed up over some views."""

    tokens: int = 0
    clustered: int = 0
    agreeing: int = 0
    cosine_sum: float = 0.0
    cosine_min: float = 1.0

    @classmethod
    def of(
        cls, exact: NDArray[np.float32], stored: NDArray[np.float32], device: str = "cpu"
    ) -> QuantisationError:
        """The error of a batch of views: tokens [B, h, w, D], the teacher's and what the tier gives back."""
        a, b = exact.astype(np.float64), stored.astype(np.float64)
        norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
        cosine = (a * b).sum(-1) / np.maximum(norms, 1e-30)
        one = slice(
            0, 1
        )  # clustering costs as much as the pass: of each batch, its first view is clustered
        agreeing = map(_agreeing, _clusters(exact[one], device), _clusters(stored[one], device))
        return cls(
            cosine.size,
            cosine[one].size,
            sum(agreeing),
            float(cosine.sum()),
            float(cosine.min()),
        )

    def __add__(self, other: QuantisationError) -> QuantisationError:
        """The error of both. Sums of floats: their order decides the last bits."""
        return QuantisationError(
            self.tokens + other.tokens,
            self.clustered + other.clustered,
            self.agreeing + other.agreeing,
            self.cosine_sum + other.cosine_sum,
            min(self.cosine_min, other.cosine_min),
        )

    def notes(self) -> dict[str, Any]:
        """Numbers for the receipt of the block, rounded."""
        return {
            "tokens": self.tokens,
            "clustered": self.clustered,
            "cosine_sum": round(self.cosine_sum, 6),
            "cosine_min": round(self.cosine_min, 8),
            "agreeing": self.agreeing,
        }


def _clusters(tokens: NDArray[np.float32], device: str) -> list[NDArray[np.intp]]:
    backend = create_backend("torch", device)
    window = min(WINDOW, *tokens.shape[1:3])
    free = np.zeros(tokens.shape[1:3], bool)
    seeds = [initial_seeds(view, free, (window,)) for view in tokens]
    flat = [view.reshape(-1, view.shape[-1]) for view in tokens]
    return [labels for labels, _ in cluster(flat, seeds, ITERATIONS, backend)]


def _agreeing(first: NDArray[np.intp], second: NDArray[np.intp]) -> int:
    """Tokens whose cluster in `second` is the commonest one among those of their cluster in `first`."""
    return sum(int(np.bincount(second[first == i]).max()) for i in np.unique(first))
