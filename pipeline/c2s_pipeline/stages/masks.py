"""Stage `masks`: the latent class of every token cell that is not annotated (Sec. III-B)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from c2s_cache import IGNORE, ArrayRecord, Cache, Manifest
from c2s_pipeline.batch import Batch
from c2s_pipeline.clustering.imported_masks import imported_grid, mask_map
from c2s_pipeline.clustering.kmeans import BackendName, create_backend
from c2s_pipeline.clustering.latent import ClusterSettings, check_windows, latent_grids
from c2s_pipeline.clustering.seeds import annotated_cells
from c2s_pipeline.imported import read_array
from c2s_pipeline.stages.base import DENSE_FACTS, Items, Likeness, Outline, option
from c2s_pipeline.stages.dense import TOKENS, dense_passes, dense_tokens, stores_float16
from c2s_pipeline.stages.images import image_sizes
from c2s_pipeline.stages.imported import Importing, ImportSettings
from c2s_pipeline.stages.views import BOX, FLIP, view_labels

GRID = "masks/grid"
PIXELS = 8
"""Side in pixels of a cell of what is imported, for deciding whether it is annotated."""
MIN_AGREEMENT = 0.9
"""Smallest share of a view's grid cells in the same latent class, whatever its number: a token between
two clusters may fall to either, by the last bits of another batch."""


class MaskSettings(ImportSettings, ClusterSettings):
    """Settings of the clustering, and the `backend` of K-means: torch, sklearn or cuml."""

    backend: BackendName = "torch"
    folder: Path | None = option(
        "--masks-from",
        "Folder of masks by image id, whole numbers [h, w] or bool [n, h, w], in place of clustered ones",
        exclude=True,
    )


class Masks(Importing):
    """K-means over dense features that are rounded to float16, whatever tier is stored; or imported masks."""

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
        if not self.brings(outline) and "dense" not in outline.imported:
            check_windows(self.settings, outline.teacher.grid)

    def decisive(self, outline: Outline) -> tuple[str, ...]:
        """The teacher has no part in what is imported, or is made of what is."""
        return () if {"dense", self.name} & set(outline.imported) else self.facts

    def upstream(self, outline: Outline) -> tuple[str, ...]:
        """Of imported features these, too."""
        made = "dense" in outline.imported and self.name not in outline.imported
        return (*super().upstream(outline), *(("dense",) if made else ()))

    def axes(self, outline: Outline) -> dict[str, int]:
        """The cells of imported masks."""
        side = self.settings.cells
        return {"mask_y": side, "mask_x": side} if self.brings(outline) else {}

    def arrays(self, outline: Outline) -> dict[str, ArrayRecord]:
        """See `Stage.arrays`."""
        cells = ("mask_y", "mask_x") if self.brings(outline) else ("grid_y", "grid_x")
        return {GRID: ArrayRecord(axes=("view", *cells), dtype="uint8")}

    def asks_teacher(self, manifest: Manifest, missing: Collection[str]) -> bool:
        """Not where float16 tokens are stored, or something is imported."""
        if self.imported or "dense" in manifest.stage(self.name).upstream:
            return False
        return not stores_float16(manifest) or manifest.owners[TOKENS] in missing

    def compute(self, batch: Batch) -> Items:
        """Latent ids by view."""
        m = batch.manifest
        if self.imported:
            return {GRID: self._imported(batch)}
        grid, size = (m.axes["grid_y"], m.axes["grid_x"]), m.teacher.dense_size
        if "dense" in m.stage(self.name).upstream:  # of cells that the teacher does not have
            size = PIXELS * grid[0]
        annotated = [annotated_cells(*v, grid) for v in view_labels(batch, size)]
        backend = create_backend(self.settings.backend, batch.device)
        grids = latent_grids(dense_tokens(batch), np.stack(annotated), self.settings, backend)
        return {GRID: list(grids)}

    def _imported(self, batch: Batch) -> list[NDArray[np.uint8]]:
        """Imported masks of all views, as latent ids uint8 [cells, cells]."""
        side, views, sizes = self.settings.cells, batch.manifest.views, image_sizes(batch)
        maps = [mask_map(read_array(batch.source, self.name, i), i) for i in batch.ids]
        labels = view_labels(batch, PIXELS * side)
        places = zip(batch.items(BOX), batch.items(FLIP), labels, strict=True)
        return [
            imported_grid(
                *(maps[n // views], sizes[n // views], box, bool(flip)),
                annotated_cells(*seen, (side, side)),
            )
            for n, (box, flip, seen) in enumerate(places)
        ]

    def passes(self, cache: Cache) -> Mapping[str, int]:
        """One a view, the one of the dense features."""
        imported = self.imported or "dense" in cache.manifest.stage(self.name).upstream
        return {} if imported else dense_passes(cache)

    def compare(self, stored: Items, anew: Items) -> Likeness:
        """By the share of cells in the same latent class, of the worst view."""
        pairs = zip(stored[GRID], anew[GRID], strict=True)
        worst = min((agreement(new, old) for old, new in pairs), default=1.0)
        return Likeness(worst, MIN_AGREEMENT, "share of grid cells as clustering gives them")


def agreement(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Share of the cells of grid `b` whose latent class is, for its most part, the same one of `a`."""
    same = sum(int(np.bincount(a[b == latent]).max()) for latent in np.unique(b))
    return same / b.size
