"""Invariant: each stage of a block is a function of the stages before it, computed in fixed batches of rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2s_cache import IGNORE, Manifest
from c2s_pipeline.error_card import ErrorCard, decoded
from c2s_pipeline.kmeans import KMeansBackend
from c2s_pipeline.regions import Regions
from c2s_pipeline.rows import PIXELS, Row, RowReader, Stored
from c2s_pipeline.source import ImageSource
from c2s_pipeline.teachers.base import Teacher
from c2s_pipeline.view_teacher import View, ViewTeacher

StageArrays = dict[str, dict[str, NDArray[Any]]]
DENSE_PASS = frozenset({"teacher", "dense", "masks"})
"""Stages that need a dense pass. Clustering always sees the teacher's own float32 tokens: the stored
tiers are rounded, and masks made from them would depend on the tier."""


def batch_rows(m: Manifest) -> int:
    """Rows that are computed together: those whose views fill a batch of the teacher. Bytes depend on it,
    so it depends on nothing but the request."""
    return max(int(m.requests["teacher"]["batch_size"]) // m.views, 1)


def stored_inputs(missing: Sequence[str]) -> frozenset[str]:
    """Paths of the arrays that must be read from the cache to compute the `missing` stages of a block.

    Arrays of stages that are themselves missing may be among them; they are computed instead.
    """
    paths: set[str] = set()
    lacking = frozenset(missing)
    if lacking - {"images"}:
        paths |= {"images/size", "images/usable"}
    if lacking & PIXELS:
        paths |= {"images/data", "views/box", "views/flip"}
    if lacking & {"views", "masks", "regions"}:
        paths |= {"labels/data"}
    if "regions" in lacking:
        paths |= {"masks/grid"}
    return frozenset(paths)


@dataclass(frozen=True)
class BlockResult:
    """Arrays of the computed stages of a block, what their receipts note (quarantined rows, the error
    card of the dense tier), and how many images went through the teacher's visual tower."""

    stages: StageArrays
    notes: dict[str, dict[str, Any]]
    passes: int


class BlockComputer:
    """Computes the missing stages of a block.

    Args:
        manifest: the cache's manifest.
        source: the data set; None if no images and labels will be missing.
        teacher: the CLIP model; None if no missing stage looks at pixels.
        backend: K-means backend.
        lanes: threads that compute batches side by side; None: one after the other, here.
    """

    def __init__(
        self,
        manifest: Manifest,
        source: ImageSource | None,
        teacher: Teacher | None,
        backend: KMeansBackend,
        lanes: Executor | None = None,
    ) -> None:
        self.manifest, self.source, self._lanes = manifest, source, lanes
        self.teacher = ViewTeacher(manifest, teacher, backend)

    def compute(
        self,
        ids: Sequence[str],
        first_row: int,
        missing: Sequence[str],
        stored: Stored,
        progress: Callable[[int], None] | None = None,
    ) -> BlockResult:
        """Compute the missing stages of a block.

        Args:
            ids: image ids of its rows.
            first_row: number of its first row.
            missing: stages to compute.
            stored: `Cache.read` of those `stored_inputs(missing)` that are there.
            progress: called with the number of rows done since the last call.

        Raises:
            DataError: a label map is missing or holds a value outside the class list.
        """
        columns = _Columns(self.manifest, len(ids), frozenset(missing), stored)
        reader = RowReader(self.manifest, self.source, first_row, missing, stored)
        passed, size = self.teacher.passes, batch_rows(self.manifest)

        def compute(start: int) -> tuple[list[Row], list[ErrorCard]]:
            numbers = range(start, min(start + size, len(ids)))
            read = [reader.read(i, ids[i]) for i in numbers]
            cards = self._fill(numbers, read, columns)
            return [row.without_pixels() for row in read], cards

        rows: list[Row] = []
        error = ErrorCard()
        each = map if self._lanes is None else self._lanes.map
        for read, cards in each(compute, range(0, len(ids), size)):
            rows += read
            error = sum(cards, error)
            if progress is not None:
                progress(len(read))
        quarantined = [
            {"row": first_row + i, "id": r.id, "reason": r.error}
            for i, r in enumerate(rows)
            if r.error
        ]
        notes: dict[str, dict[str, Any]] = {"images": {"quarantined": quarantined}}
        if "dense" in columns.missing:
            notes["dense"] = {"error": error.notes()}
        return BlockResult(columns.assemble(rows), notes, self.teacher.passes - passed)

    def _fill(self, numbers: range, rows: list[Row], columns: _Columns) -> list[ErrorCard]:
        """Fill the columns for some of the block's rows; returns the error cards of their batches."""
        if not columns.missing & PIXELS:
            return []
        places = [
            ((i, v), view)
            for i, row in zip(numbers, rows, strict=True)
            for v, view in enumerate(row.views)
        ]
        steps = range(0, len(places), self.teacher.batch_size)
        batches = (places[i : i + self.teacher.batch_size] for i in steps)
        return [card for batch in batches for card in self._compute(batch, columns)]

    def _compute(
        self, places: list[tuple[tuple[int, int], View]], columns: _Columns
    ) -> list[ErrorCard]:
        """Fill the columns for one batch of views, each at its place (row, view) in the block."""
        views, missing = [view for _, view in places], columns.missing
        at = tuple(np.array([place for place, _ in places]).T)
        cards = []
        if missing & DENSE_PASS:
            cls, tokens = self.teacher.tokens(
                views, "teacher" in missing, bool(missing & {"dense", "masks"})
            )
            if cls is not None:
                columns.cls[at] = cls
            if tokens is not None and "dense" in missing:
                tier = dense_tier(tokens, self.manifest.dense)
                for path, values in tier.items():
                    columns.dense[path][at] = values
                cards.append(ErrorCard.of(tokens, decoded(tier)))
            if tokens is not None and "masks" in missing:
                columns.grid[at] = self.teacher.grids(views, tokens)
        if "regions" in missing:
            found = self.teacher.regions(views, columns.grid[at])
            for (place, _), region in zip(places, found, strict=True):
                columns.regions[place] = region
        return cards


class _Columns:
    """Values of all views of a block, blank until filled in, each view by one thread: quarantined rows
    stay blank."""

    def __init__(self, m: Manifest, rows: int, missing: frozenset[str], stored: Stored) -> None:
        self.manifest, self.missing = m, missing
        self.views, dim = (rows, m.views), m.teacher.dim
        self.cls = np.zeros((*self.views, dim), np.float16)
        blank = np.full((*self.views, *m.teacher.grid), IGNORE, np.uint8)
        self.grid = blank if "masks" in missing else stored.get("masks/grid", blank)
        self.dense: dict[str, NDArray[Any]] = {}
        if "dense" in missing:
            tokens = np.zeros(
                (*self.views, *m.teacher.grid, m.teacher.dense_dim or dim), np.float32
            )
            self.dense = dense_tier(tokens, m.dense)
        empty = Regions(np.zeros(0, np.int16), np.zeros(0, np.float32), np.zeros(0, np.uint8), 0)
        nothing = (empty, np.zeros((0, dim), np.float32))
        self.regions = {(i, v): nothing for i in range(rows) for v in range(m.views)}

    def assemble(self, rows: list[Row]) -> StageArrays:
        """Arrays of every missing stage, by path."""
        makers: dict[str, Callable[[], dict[str, NDArray[Any]]]] = {
            "images": lambda: _images(rows),
            "labels": lambda: _labels(rows),
            "views": lambda: self._geometry(rows),
            "teacher": lambda: {"teacher/global_cls": self.cls},
            "dense": lambda: self.dense,
            "masks": lambda: {"masks/grid": self.grid},
            "regions": self._region_arrays,
        }
        return {stage: make() for stage, make in makers.items() if stage in self.missing}

    def _geometry(self, rows: list[Row]) -> dict[str, NDArray[Any]]:
        box, flip = np.zeros((*self.views, 4)), np.zeros(self.views, bool)
        for i, row in enumerate(rows):
            for v, view in enumerate(row.views):
                box[i, v], flip[i, v] = view.box, view.flip
        return {"views/box": box, "views/flip": flip}

    def _region_arrays(self) -> dict[str, NDArray[Any]]:
        found = [r for r, _ in self.regions.values()]
        return {
            "regions/cls": np.concatenate([cls for _, cls in self.regions.values()]),
            "regions/id": np.concatenate([r.ids for r in found]),
            "regions/area": np.concatenate([r.area for r in found]),
            "regions/end": np.cumsum([len(r.ids) for r in found]).reshape(self.views),
            "regions/skipped": np.array([r.skipped for r in found], np.uint16).reshape(self.views),
        }


def _images(rows: list[Row]) -> dict[str, NDArray[Any]]:
    names = [r.id.encode() for r in rows]
    digests = [hashlib.sha256(r.data).digest() if r.error is None else bytes(32) for r in rows]
    return {
        "images/data": _bytes(b"".join(r.data for r in rows)),
        "images/end": np.cumsum([len(r.data) for r in rows]),
        "images/size": np.array([r.labels.shape for r in rows], np.int32),
        "images/digest": _bytes(b"".join(digests)).reshape(-1, 32),
        "images/usable": np.array([r.error is None for r in rows]),
        "images/id_data": _bytes(b"".join(names)),
        "images/id_end": np.cumsum([len(n) for n in names]),
    }


def _labels(rows: list[Row]) -> dict[str, NDArray[Any]]:
    return {
        "labels/data": np.concatenate([r.labels.reshape(-1) for r in rows]),
        "labels/ignored": np.concatenate([r.ignored.reshape(-1) for r in rows]),
        "labels/end": np.cumsum([r.labels.size for r in rows]),
    }


def dense_tier(tokens: NDArray[np.float32], tier: str) -> dict[str, NDArray[Any]]:
    """Encode dense features for storage.

    "float16" rounds; "int8" divides each token by its largest magnitude / 127 and rounds, so that
    token = int8 * scale.

    Args:
        tokens: float32 [..., h, w, D].
        tier: "float16" or "int8".
    """
    if tier == "float16":
        return {"teacher/dense": tokens.astype(np.float16)}
    scale = (np.abs(tokens).max(-1) / 127).astype(np.float16)
    divisor = np.where(scale > 0, scale, np.float16(1)).astype(np.float32)
    quantised = np.clip(np.rint(tokens / divisor[..., None]), -127, 127).astype(np.int8)
    return {"teacher/dense": quantised, "teacher/dense_scale": scale}


def _bytes(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)
