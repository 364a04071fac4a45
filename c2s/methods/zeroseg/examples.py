"""Invariant: of a cache ZeroSeg reads pixels and what the teacher says of them; no label, name or text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from c2s.methods.batch import Batch
from c2s.methods.cells import CELLS
from c2s.methods.clip_to_seg.examples import GLOBAL_CLS, GRID, REGION_CLS, REGION_ID
from c2s.methods.examples import (
    LABELS,
    PIXELS,
    CutView,
    TeacherOutput,
    TrainingExample,
    batch_fields,
    padded,
    stacked,
    view_fields,
)
from c2s_cache.manifest import IGNORE
from c2s_cache.pseudo_mask import pseudo_mask

UNLABELLED = PIXELS - {LABELS}


@dataclass(frozen=True, kw_only=True)
class ZeroSegExample(TrainingExample):
    """One view in numpy; fields as in `ZeroSegBatch`, without the batch axis, J not padded."""

    global_cls: NDArray[np.float16]
    targets: NDArray[np.float16]
    ids: NDArray[np.int16] | None = None
    regions: NDArray[np.int16] | None = None


@dataclass(frozen=True, kw_only=True)
class ZeroSegBatch(Batch):
    """Views of B images and the teacher's tokens of their parts.

    Attributes:
        global_cls: float32 [B, D], token of the whole view, as CLIP gives it (not normalised).
        targets: float32 [B, J, D], tokens of cells, grid after grid, or of regions, zero in padded slots.
        ids: int64 [B, J], ids of the regions in `regions`, -1 in padded slots. None: the targets are cells.
        regions: int64 [B, S, S], region of each pixel, -1 on padding. None: the targets are cells.
        scales: grids that the cells are of, where the targets are cells.
    """

    global_cls: Tensor
    targets: Tensor
    ids: Tensor | None = None
    regions: Tensor | None = None
    scales: tuple[int, ...] = ()


class CellExamples:
    """A view, and the tokens of the cells of some grids.

    Args:
        cells: which cells of those that the cache has, in its order.
        scales: the grids that they are of.
    """

    paths = UNLABELLED | {GLOBAL_CLS, CELLS}
    teacher_paths = frozenset({GLOBAL_CLS, CELLS})
    pixel_bytes = 3

    def __init__(self, cells: tuple[int, ...], scales: tuple[int, ...]) -> None:
        self.cells, self.scales = list(cells), scales

    def example(self, view: CutView, teacher: TeacherOutput) -> ZeroSegExample:
        """See `Examples`."""
        return ZeroSegExample(
            **view_fields(view),
            global_cls=teacher[GLOBAL_CLS],
            targets=teacher[CELLS][self.cells],
        )

    def collate(self, examples: Sequence[ZeroSegExample]) -> ZeroSegBatch:
        """Every view has the same cells."""
        return ZeroSegBatch(
            **batch_fields(examples),
            global_cls=stacked([e.global_cls for e in examples], np.float32),
            targets=stacked([e.targets for e in examples], np.float32),
            scales=self.scales,
        )


class RegionExamples:
    """A view, and the tokens of the regions that clustering found without a label.

    Args:
        first_latent_id: N, number of all classes.
    """

    paths = UNLABELLED | {GLOBAL_CLS, GRID, REGION_CLS, REGION_ID}
    teacher_paths = frozenset({GLOBAL_CLS, GRID, REGION_CLS, REGION_ID})
    pixel_bytes = 5

    def __init__(self, first_latent_id: int) -> None:
        self.first_latent_id = first_latent_id

    def example(self, view: CutView, teacher: TeacherOutput) -> ZeroSegExample:
        """The map of regions is made here, of the teacher's grid alone."""
        none = np.full(view.crop.labels.shape, IGNORE, np.uint8)
        regions = pseudo_mask(none, teacher[GRID], self.first_latent_id, view.crop.inside)
        return ZeroSegExample(
            **view_fields(view),
            global_cls=teacher[GLOBAL_CLS],
            targets=teacher[REGION_CLS],
            ids=teacher[REGION_ID],
            regions=regions,
        )

    def collate(self, examples: Sequence[ZeroSegExample]) -> ZeroSegBatch:
        """Regions are padded to the largest number among the views (at least one slot)."""
        ids = [e.ids for e in examples if e.ids is not None]
        regions = [e.regions for e in examples if e.regions is not None]
        return ZeroSegBatch(
            **batch_fields(examples),
            global_cls=stacked([e.global_cls for e in examples], np.float32),
            targets=padded([e.targets for e in examples], 0, np.float32),
            ids=padded(ids, -1, np.int64),
            regions=stacked(regions, np.int64),
        )
