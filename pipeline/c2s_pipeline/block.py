"""Invariant: each stage of a block is a function of the stages before it, computed in fixed batches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from c2s_cache import IGNORE, Manifest
from c2s_cache.pseudo_mask import pseudo_mask
from c2s_cache.views import crop_labels, inside_image
from c2s_pipeline.kmeans import KMeansBackend
from c2s_pipeline.masks import MaskConfig, latent_grids
from c2s_pipeline.regions import RegionConfig, Regions, masked_regions
from c2s_pipeline.rows import PIXELS, Row, RowReader, Stored, View
from c2s_pipeline.seeds import annotated_cells
from c2s_pipeline.source import ImageSource
from c2s_pipeline.teacher import Teacher

StageArrays = dict[str, dict[str, NDArray[Any]]]
DENSE_PASS = frozenset({"teacher", "dense", "masks"})
"""Stages that need a dense pass. Clustering always sees the teacher's own float32 tokens: the stored
tiers are rounded, and masks made from them would depend on the tier."""


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
    """Arrays of the computed stages of a block, its quarantined rows as (row, id, reason), and how
    many images went through the teacher's visual tower."""

    stages: StageArrays
    quarantined: list[dict[str, Any]]
    passes: int


@dataclass(frozen=True)
class Item:
    """A view of a usable row: its place (row, view) in the block, its labels, itself."""

    at: tuple[int, int]
    labels: NDArray[np.uint8]
    view: View


class BlockComputer:
    """Computes the missing stages of a block.

    Args:
        manifest: the cache's manifest.
        source: the data set; not touched if neither images nor labels are missing.
        teacher: the CLIP model; None if no missing stage looks at pixels.
        backend: K-means backend.
        threads: decoding threads.
    """

    def __init__(
        self,
        manifest: Manifest,
        source: ImageSource,
        teacher: Teacher | None,
        backend: KMeansBackend,
        threads: int = 2,
    ) -> None:
        self.manifest, self.source, self.backend = manifest, source, backend
        self._teacher, self.threads = teacher, threads
        requests = manifest.requests
        self.batch_size = int(requests["teacher"]["batch_size"])
        masks = {k: v for k, v in requests["masks"].items() if k in MaskConfig.model_fields}
        regions = {k: v for k, v in requests["regions"].items() if k in RegionConfig.model_fields}
        self.mask_config = MaskConfig.model_validate(masks)
        self.region_config = RegionConfig.model_validate(regions)
        red, green, blue = (round(255 * c) for c in manifest.teacher.mean)
        self._mean_colour = (red, green, blue)

    @property
    def teacher(self) -> Teacher:
        """The CLIP model."""
        if self._teacher is None:
            raise ValueError("the missing stages need a teacher")
        return self._teacher

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
        rows: list[Row] = []
        passes = 0
        reader = RowReader(self.manifest, self.source, missing, stored, self.threads)
        for batch in reader.batches(ids, self.batch_size):
            items = [
                Item((len(rows) + i, v), row.labels, view)
                for i, row in enumerate(batch)
                for v, view in enumerate(row.views)
            ]
            rows += batch
            if columns.missing & PIXELS:
                for start in range(0, len(items), self.batch_size):
                    passes += self._compute(items[start : start + self.batch_size], columns)
            if progress is not None:
                progress(len(batch))
        quarantined = [
            {"row": first_row + i, "id": r.id, "reason": r.error}
            for i, r in enumerate(rows)
            if r.error
        ]
        return BlockResult(columns.assemble(rows), quarantined, passes)

    def _compute(self, items: list[Item], columns: _Columns) -> int:
        """One batch of views: fills the columns, returns the number of teacher passes."""
        at = tuple(np.array([item.at for item in items]).T)
        passes = 0
        if columns.missing & DENSE_PASS:
            cls, tokens, passes = self._teach(items, columns.missing)
            if cls is not None:
                columns.cls[at] = cls
            if tokens is not None and "dense" in columns.missing:
                for path, values in dense_tier(tokens, self.manifest.dense).items():
                    columns.dense[path][at] = values
            if tokens is not None and "masks" in columns.missing:
                columns.grid[at] = self._cluster(items, tokens)
        if "regions" in columns.missing:
            found, region_cls = self._regions(items, columns.grid[at])
            passes += len(region_cls)
            parts = np.split(region_cls, np.cumsum([len(r.ids) for r in found])[:-1])
            for item, region, part in zip(items, found, parts, strict=True):
                columns.regions[item.at] = (replace(region, images=region.images[:0]), part)
        return passes

    def _teach(
        self, items: list[Item], missing: frozenset[str]
    ) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None, int]:
        """Global CLS [n, D] at the native size, dense features [n, h, w, D], number of passes."""
        cls, tokens, passes = None, None, 0
        same = self.teacher.dense_size == self.teacher.image_size
        if same or missing & {"dense", "masks"}:
            cls, tokens = self.teacher.dense_features(_stack(i.view.dense for i in items))
            passes += len(items)
        if "teacher" in missing and not same:
            cls = self.teacher.cls_tokens(_stack(i.view.native for i in items))
            passes += len(items)
        return _numpy(cls if "teacher" in missing else None), _numpy(tokens), passes

    def _cluster(self, items: list[Item], tokens: NDArray[np.float32]) -> NDArray[np.uint8]:
        size, annotated = self.teacher.dense_size, []
        for item in items:
            labels, inside = self._view_labels(item, size)
            annotated.append(annotated_cells(labels, inside, self.teacher.grid))
        return latent_grids(tokens, np.stack(annotated), self.mask_config, self.backend)

    def _regions(
        self, items: list[Item], grids: NDArray[np.uint8]
    ) -> tuple[list[Regions], NDArray[np.float16]]:
        """Regions of each view, and their tokens run together: passes are batched across views."""
        size, found = self.teacher.image_size, []
        for item, grid in zip(items, grids, strict=True):
            labels, inside = self._view_labels(item, size)
            pseudo = pseudo_mask(labels, grid, len(self.manifest.classes), inside)
            assert item.view.native is not None
            found.append(
                masked_regions(item.view.native, pseudo, self.region_config, self._mean_colour)
            )
        images = np.concatenate([r.images for r in found])
        steps = range(0, len(images), self.batch_size)
        parts = [self.teacher.cls_tokens(images[i : i + self.batch_size]) for i in steps]
        if not parts:
            return found, np.zeros((0, self.teacher.dim), np.float16)
        return found, torch.cat(parts).cpu().numpy().astype(np.float16)

    @staticmethod
    def _view_labels(item: Item, size: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Labels of a view at `size` pixels, and where it shows the image."""
        height, width = item.labels.shape
        box, flip = item.view.box, item.view.flip
        return (
            crop_labels(item.labels, box, flip, size),
            inside_image(height, width, box, flip, size),
        )


class _Columns:
    """Values of all views of a block, blank until filled in: quarantined rows stay blank."""

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
        nothing = (empty, np.zeros((0, dim), np.float16))
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


def _numpy(values: torch.Tensor | None) -> NDArray[np.float32] | None:
    return None if values is None else values.cpu().numpy()


def _stack(images: Iterable[NDArray[np.uint8] | None]) -> NDArray[np.uint8]:
    return np.stack([image for image in images if image is not None])
