"""Stage `masks`: the latent class of every token cell that is not annotated (Sec. III-B)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from c2s_cache import IGNORE, ArrayRecord, Cache, Manifest
from c2s_pipeline.batch import Batch
from c2s_pipeline.clustering.kmeans import BackendName, create_backend
from c2s_pipeline.clustering.latent import ClusterSettings, check_windows, latent_grids
from c2s_pipeline.clustering.seeds import annotated_cells
from c2s_pipeline.stages.base import DENSE_FACTS, Items, Likeness, Outline, Stage, StageSettings
from c2s_pipeline.stages.dense import TOKENS, dense_passes, dense_tokens, stores_float16
from c2s_pipeline.stages.views import view_labels

GRID = "masks/grid"
MIN_AGREEMENT = 0.9
"""Smallest share of a view's grid cells in the same latent class, whatever its number: a token between
two clusters may fall to either, by the last bits of another batch."""


class MaskSettings(StageSettings, ClusterSettings):
    """Settings of the clustering, and the `backend` of K-means: torch, sklearn or cuml."""

    backend: BackendName = "torch"


class Masks(Stage):
    """K-means over dense features that are rounded to float16, whatever tier is stored."""

    name = "masks"
    Settings = MaskSettings
    settings: MaskSettings
    needs = ("views",)
    uses = ("labels",)
    facts = DENSE_FACTS
    live = True
    blank = {GRID: IGNORE}  # noqa: RUF012

    def check(self, outline: Outline) -> None:
        """See `Stage.check`; some window must fit the teacher's grid."""
        super().check(outline)
        check_windows(self.settings, outline.teacher.grid)

    def arrays(self, outline: Outline) -> dict[str, ArrayRecord]:
        """See `Stage.arrays`."""
        return {GRID: ArrayRecord(axes=("view", "grid_y", "grid_x"), dtype="uint8")}

    def asks_teacher(self, manifest: Manifest, missing: Collection[str]) -> bool:
        """Not where float16 tokens are stored."""
        return not stores_float16(manifest) or manifest.owners[TOKENS] in missing

    def compute(self, batch: Batch) -> Items:
        """Latent ids by view."""
        teacher = batch.manifest.teacher
        annotated = [
            annotated_cells(*v, teacher.grid) for v in view_labels(batch, teacher.dense_size)
        ]
        backend = create_backend(self.settings.backend, batch.device)
        grids = latent_grids(dense_tokens(batch), np.stack(annotated), self.settings, backend)
        return {GRID: list(grids)}

    def passes(self, cache: Cache) -> Mapping[str, int]:
        """One a view, the one of the dense features."""
        return dense_passes(cache)

    def compare(self, stored: Items, anew: Items) -> Likeness:
        """By the share of cells in the same latent class, of the worst view."""
        pairs = zip(stored[GRID], anew[GRID], strict=True)
        worst = min((agreement(new, old) for old, new in pairs), default=1.0)
        return Likeness(worst, MIN_AGREEMENT, "share of grid cells as clustering gives them")


def agreement(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Share of the cells of grid `b` whose latent class is, for its most part, the same one of `a`."""
    same = sum(int(np.bincount(a[b == latent]).max()) for latent in np.unique(b))
    return same / b.size
