"""Invariant: what C2S reads of a cache is named here; nothing of unseen classes is unless it is transductive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from c2s.methods.batch import Batch
from c2s.methods.cells import CELLS
from c2s.methods.examples import (
    IGNORED,
    LABELS,
    PIXELS,
    CutView,
    TeacherOutput,
    TrainingExample,
    batch_fields,
    padded,
    stacked,
    unseen_pixels,
    view_fields,
)
from c2s_cache.pseudo_mask import pseudo_mask

GLOBAL_CLS, GRID = "global_cls/cls", "masks/grid"
REGION_CLS, REGION_ID = "regions/cls", "regions/id"
TOKENS, SCALE = "dense/tokens", "dense/scale"
DENSE = frozenset({TOKENS, SCALE})
TAUGHT = frozenset({GLOBAL_CLS, GRID, REGION_CLS, REGION_ID})
"""What the teacher says of a view."""
PATHS = PIXELS | TAUGHT


@dataclass(frozen=True, kw_only=True)
class ClipToSegExample(TrainingExample):
    """One view in numpy; fields as in `ClipToSegBatch`, without the batch axis, R not padded."""

    pseudo: NDArray[np.int16]
    global_cls: NDArray[np.float16]
    region_cls: NDArray[np.float16]
    region_ids: NDArray[np.int16]
    dense: NDArray[np.floating] | None = None
    cells: NDArray[np.float16] | None = None
    unseen: NDArray[np.bool_] | None = None


@dataclass(frozen=True, kw_only=True)
class ClipToSegBatch(Batch):
    """Views of B images with their pseudo masks and CLIP tokens.

    Attributes:
        pseudo: int64 [B, S, S], the pseudo mask: a seen class id (0..N-1), N + u for latent class u
            of that image, -1 where there is neither.
        global_cls: float32 [B, D], CLS token of the view, as CLIP gives it (not normalised).
        region_cls: float32 [B, R, D], CLS tokens of the masked regions, zero in padded slots.
        region_ids: int64 [B, R], id of each region in the pseudo mask's encoding, -1 in padded slots.
        max_id: no id in `pseudo` or `region_ids` is larger. The loader knows it; where it is None, the
            method has to look, and on a GPU to wait for what it sees.
        dense: float32 [B, gh, gw, D], dense features of the view. None where they are not distilled.
        cells: float32 [B, J, D], tokens of the cells of some grids, grid after grid. None where they are not distilled.
        scales: these grids.
        unseen: bool [B, S, S], pixels of unseen classes, whichever: their annotation was removed. Only in
            a self-training; None otherwise, so that they cannot be told from pixels of no class.
    """

    pseudo: Tensor
    global_cls: Tensor
    region_cls: Tensor
    region_ids: Tensor
    max_id: int | None = None
    dense: Tensor | None = None
    cells: Tensor | None = None
    scales: tuple[int, ...] = ()
    unseen: Tensor | None = None

    def largest_id(self) -> int:
        """`max_id`, looked up if it was not given."""
        if self.max_id is not None:
            return self.max_id
        return max(int(self.pseudo.max()), int(self.region_ids.max()))


class ClipToSegExamples:
    """What C2S learns from a view: its pseudo mask and the tokens of the image and its regions.

    Args:
        first_latent_id: N, number of all classes.
        labelled: the cache has label maps.
        transductive: also read which pixels the data set itself ignores. This tells pixels of unseen
            classes from pixels of none, which inductive training must not know. Without label maps nothing is
            said to be ignored, and every pixel is of an unseen class.
        dense: arrays of dense features to read, too.
        scales: grids whose cells are read, too.
        cells: their places among those of the cache.
    """

    def __init__(
        self,
        first_latent_id: int,
        labelled: bool = True,
        transductive: bool = False,
        dense: frozenset[str] = frozenset(),
        scales: tuple[int, ...] = (),
        cells: tuple[int, ...] = (),
    ) -> None:
        self.first_latent_id = first_latent_id
        self.scales, self.cells = scales, list(cells)
        own = {IGNORED} if transductive and labelled else set()
        self.all_unseen = transductive and not labelled
        further = dense | ({CELLS} if cells else set())
        self.teacher_paths = TAUGHT | further
        self.paths = (PATHS if labelled else PATHS - {LABELS}) | further | own
        # Three of colour, two of pseudo mask, one of unseen pixels.
        self.pixel_bytes = 6 if transductive else 5

    def example(self, view: CutView, teacher: TeacherOutput) -> ClipToSegExample:
        """The pseudo mask is built here, of the view's labels and the teacher's grid."""
        labels, inside = view.crop.labels, view.crop.inside
        return ClipToSegExample(
            **view_fields(view),
            pseudo=pseudo_mask(labels, teacher[GRID], self.first_latent_id, inside),
            global_cls=teacher[GLOBAL_CLS],
            region_cls=teacher[REGION_CLS],
            region_ids=teacher[REGION_ID],
            dense=_dense(teacher) if TOKENS in self.paths else None,
            cells=teacher[CELLS][self.cells] if self.cells else None,
            unseen=inside if self.all_unseen else unseen_pixels(view),
        )

    def collate(self, examples: Sequence[ClipToSegExample]) -> ClipToSegBatch:
        """Regions are padded to the largest number among the views (at least one slot)."""
        ids = [a for e in examples for a in (e.pseudo, e.region_ids) if a.size]
        dense = [e.dense for e in examples if e.dense is not None]
        cells = [e.cells for e in examples if e.cells is not None]
        unseen = [e.unseen for e in examples if e.unseen is not None]
        return ClipToSegBatch(
            **batch_fields(examples),
            pseudo=stacked([e.pseudo for e in examples], np.int64),
            global_cls=stacked([e.global_cls for e in examples], np.float32),
            region_cls=padded([e.region_cls for e in examples], 0, np.float32),
            region_ids=padded([e.region_ids for e in examples], -1, np.int64),
            max_id=max(int(a.max()) for a in ids),
            dense=stacked(dense, np.float32) if dense else None,
            cells=stacked(cells, np.float32) if cells else None,
            scales=self.scales,
            unseen=torch.from_numpy(np.stack(unseen)) if unseen else None,
        )


def _dense(teacher: TeacherOutput) -> NDArray[np.floating]:
    """Dense features of a view [gh, gw, D], float16 as stored or float32 where the cache has int8 (SPEC 3)."""
    tokens: NDArray[Any] = teacher[TOKENS]
    if SCALE not in teacher:
        return tokens
    decoded: NDArray[np.float32] = tokens * teacher[SCALE].astype(np.float32)[..., None]
    return decoded
