"""Invariant: a block is computed from its source rows alone, in fixed batches, so it can be computed again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from c2s_cache import IGNORE, Manifest, UnreadableImage
from c2s_cache.pseudo_mask import pseudo_mask
from c2s_cache.views import canonical_box, crop_image, crop_labels, decode_image, inside_image
from c2s_pipeline.kmeans import KMeansBackend
from c2s_pipeline.masks import MaskConfig, latent_grids
from c2s_pipeline.regions import RegionConfig, Regions, masked_regions
from c2s_pipeline.request import without_unseen
from c2s_pipeline.seeds import annotated_cells
from c2s_pipeline.source import ImageSource
from c2s_pipeline.teacher import Teacher

StageArrays = dict[str, dict[str, NDArray[Any]]]


@dataclass(frozen=True)
class Row:
    """One image, decoded and cut to the canonical view at both teacher sizes; `error` if unreadable."""

    id: str
    data: bytes
    labels: NDArray[np.uint8]
    box: tuple[float, float, float, float]
    native: NDArray[np.uint8]
    dense: NDArray[np.uint8]
    error: str | None = None


@dataclass(frozen=True)
class BlockResult:
    """Arrays of every stage of a block, and the quarantined rows as (row, id, reason)."""

    stages: StageArrays
    quarantined: list[dict[str, Any]]


class BlockComputer:
    """Computes all stages of a block.

    Args:
        manifest: the cache's manifest.
        source: the data set.
        teacher: the CLIP model.
        backend: K-means backend.
        batch_size: images per teacher pass; part of the request, since it may change the last bits.
        threads: decoding threads.
    """

    def __init__(
        self,
        manifest: Manifest,
        source: ImageSource,
        teacher: Teacher,
        backend: KMeansBackend,
        batch_size: int,
        threads: int = 2,
    ) -> None:
        self.manifest, self.source, self.teacher, self.backend = manifest, source, teacher, backend
        self.batch_size, self.threads = batch_size, threads
        requests = manifest.requests
        masks = {k: v for k, v in requests["masks"].items() if k in MaskConfig.model_fields}
        regions = {k: v for k, v in requests["regions"].items() if k in RegionConfig.model_fields}
        self.mask_config = MaskConfig.model_validate(masks)
        self.region_config = RegionConfig.model_validate(regions)
        red, green, blue = (round(255 * c) for c in manifest.teacher.mean)
        self._mean_colour = (red, green, blue)

    def compute(
        self, ids: Sequence[str], first_row: int, progress: Callable[[int], None] | None = None
    ) -> BlockResult:
        """Compute a block.

        Args:
            ids: image ids of its rows.
            first_row: number of its first row.
            progress: called with the number of rows done since the last call.

        Raises:
            DataError: a label map is missing or holds a value outside the class list.
        """
        rows: list[Row] = []
        columns: dict[str, list[Any]] = {k: [] for k in ("cls", "grid", "tokens", "regions")}
        for batch in self._batches(ids):
            rows += batch
            usable = [r for r in batch if r.error is None]
            cls, tokens = self._teach(usable)
            grids = self._cluster(usable, tokens)
            regions = self._regions(usable, grids)
            done = iter(zip(cls, tokens, grids, regions, strict=True))
            for row in batch:
                values = next(done) if row.error is None else self._blank()
                for key, value in zip(("cls", "tokens", "grid", "regions"), values, strict=True):
                    columns[key].append(value)
            if progress is not None:
                progress(len(batch))
        quarantined = [
            {"row": first_row + i, "id": r.id, "reason": r.error}
            for i, r in enumerate(rows)
            if r.error
        ]
        return BlockResult(self._assemble(rows, columns), quarantined)

    def _batches(self, ids: Sequence[str]) -> Iterator[list[Row]]:
        """Decode one batch ahead of the teacher."""
        groups = [ids[i : i + self.batch_size] for i in range(0, len(ids), self.batch_size)]
        with ThreadPoolExecutor(self.threads) as pool:
            pending = [pool.submit(self._read, i) for i in groups[0]]
            for following in [*groups[1:], ()]:
                ahead = [pool.submit(self._read, i) for i in following]
                yield [future.result() for future in pending]
                pending = ahead

    def _read(self, image_id: str) -> Row:
        native, dense = self.teacher.image_size, self.teacher.dense_size
        try:
            data = self.source.encoded(image_id)
            image = decode_image(data)
            labels = self.source.labels(image_id)
            if labels.shape != image.shape[:2]:
                raise UnreadableImage(
                    f"label map is {labels.shape[1]} x {labels.shape[0]}, "
                    f"image {image.shape[1]} x {image.shape[0]}."
                )
        except UnreadableImage as error:
            empty = np.zeros((0, 0), np.uint8)
            return Row(image_id, b"", empty, (0, 0, 0, 0), empty, empty, error.what)
        labels = without_unseen(labels, self.manifest.unseen, IGNORE)
        box = canonical_box(image.shape[0], image.shape[1], native)
        small = crop_image(image, box, False, native)
        large = small if dense == native else crop_image(image, box, False, dense)
        return Row(image_id, data, labels, box, small, large)

    def _teach(self, rows: list[Row]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Global CLS [n, D] at the native size, dense features [n, h, w, D] at the dense size."""
        if not rows:
            return np.zeros((0, self.teacher.dim), np.float32), np.zeros((0,), np.float32)
        cls, tokens = self.teacher.dense_features(np.stack([r.dense for r in rows]))
        if self.teacher.dense_size != self.teacher.image_size:
            cls = self.teacher.cls_tokens(np.stack([r.native for r in rows]))
        return cls.cpu().numpy(), tokens.cpu().numpy()

    def _cluster(self, rows: list[Row], tokens: NDArray[np.float32]) -> NDArray[np.uint8]:
        if not rows:
            return np.zeros((0, *self.teacher.grid), np.uint8)
        size, annotated = self.teacher.dense_size, []
        for row in rows:
            labels = crop_labels(row.labels, row.box, False, size)
            inside = self._inside(row, size)
            annotated.append(annotated_cells(labels, inside, self.teacher.grid))
        return latent_grids(tokens, np.stack(annotated), self.mask_config, self.backend)

    def _regions(
        self, rows: list[Row], grids: NDArray[np.uint8]
    ) -> list[tuple[Regions, NDArray[np.float16]]]:
        """Region tokens, their teacher passes batched across the images of the batch."""
        size, found = self.teacher.image_size, []
        for row, grid in zip(rows, grids, strict=True):
            labels = crop_labels(row.labels, row.box, False, size)
            inside = self._inside(row, size)
            pseudo = pseudo_mask(labels, grid, len(self.manifest.classes), inside)
            found.append(masked_regions(row.native, pseudo, self.region_config, self._mean_colour))
        images = np.concatenate([r.images for r in found]) if found else np.zeros((0,), np.uint8)
        steps = range(0, len(images), self.batch_size)
        parts = [self.teacher.cls_tokens(images[i : i + self.batch_size]) for i in steps]
        cls = torch.cat(parts).cpu().numpy().astype(np.float16) if parts else self._no_tokens()
        ends = np.cumsum([len(r.ids) for r in found])
        return list(zip(found, np.split(cls, ends[:-1]), strict=True)) if found else []

    @staticmethod
    def _inside(row: Row, size: int) -> NDArray[np.bool_]:
        height, width = row.labels.shape
        return inside_image(height, width, row.box, False, size)

    def _no_tokens(self) -> NDArray[np.float16]:
        return np.zeros((0, self.teacher.dim), np.float16)

    def _blank(self) -> tuple[Any, ...]:
        """Values of a quarantined row."""
        empty = Regions(np.zeros(0, np.int16), np.zeros(0, np.float32), np.zeros(0, np.uint8), 0)
        dim, grid = self.teacher.dim, self.teacher.grid
        tokens = np.zeros((*grid, self.teacher.dense_dim), np.float32)
        closed = np.full(grid, IGNORE, np.uint8)
        return np.zeros(dim, np.float32), tokens, closed, (empty, self._no_tokens())

    def _assemble(self, rows: list[Row], columns: dict[str, list[Any]]) -> StageArrays:
        regions = [r for r, _ in columns["regions"]]
        names = [r.id.encode() for r in rows]
        digests = [hashlib.sha256(r.data).digest() if r.error is None else bytes(32) for r in rows]
        images = {
            "images/data": _bytes(b"".join(r.data for r in rows)),
            "images/end": np.cumsum([len(r.data) for r in rows]),
            "images/size": np.array([r.labels.shape for r in rows], np.int32),
            "images/digest": _bytes(b"".join(digests)).reshape(-1, 32),
            "images/usable": np.array([r.error is None for r in rows]),
            "images/id_data": _bytes(b"".join(names)),
            "images/id_end": np.cumsum([len(n) for n in names]),
            "labels/data": np.concatenate([r.labels.reshape(-1) for r in rows]),
            "labels/end": np.cumsum([r.labels.size for r in rows]),
        }
        teacher = {"teacher/global_cls": np.stack(columns["cls"])[:, None].astype(np.float16)}
        if self.manifest.dense != "none":
            teacher |= dense_tier(np.stack(columns["tokens"])[:, None], self.manifest.dense)
        return {
            "images": images,
            "views": {
                "views/box": np.array([r.box for r in rows])[:, None],
                "views/flip": np.zeros((len(rows), 1), bool),
            },
            "teacher": teacher,
            "masks": {"masks/grid": np.stack(columns["grid"])[:, None]},
            "regions": {
                "regions/cls": np.concatenate([cls for _, cls in columns["regions"]]),
                "regions/id": np.concatenate([r.ids for r in regions]),
                "regions/area": np.concatenate([r.area for r in regions]),
                "regions/end": np.cumsum([len(r.ids) for r in regions])[:, None],
                "regions/skipped": np.array([[r.skipped] for r in regions], np.uint16),
            },
        }


def dense_tier(tokens: NDArray[np.float32], tier: str) -> dict[str, NDArray[Any]]:
    """Encode dense features for storage.

    "float16" rounds; "int8" divides each token by its largest magnitude / 127 and rounds, so that
    token = int8 * scale.

    Args:
        tokens: float32 [n, views, h, w, D].
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
