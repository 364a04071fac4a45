"""Stage `segments`: the teacher's tokens of every annotated segment of an image, cut from the image itself (GKC).

They hold for every view: a method that learns from them alone may draw views for ever without a teacher.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from c2s_cache import IGNORE, ArrayRecord, Block, Cache, ConfigError
from c2s_cache.integrity import Finding
from c2s_cache.manifest import Interpolation, Manifest
from c2s_cache.views import crop_image
from c2s_pipeline.batch import Batch
from c2s_pipeline.stages.base import (
    CLS_FACTS,
    DENSE_FACTS,
    Items,
    Likeness,
    Outline,
    Stage,
    StageSettings,
    cosine,
)
from c2s_pipeline.stages.images import image
from c2s_pipeline.stages.instances import MAP
from c2s_pipeline.stages.labels import label_maps

CLS, SPATIAL, ID, CLASS, AREA, BOX, END = (
    *("segments/cls", "segments/spatial", "segments/id", "segments/class"),
    *("segments/area", "segments/box", "segments/end"),
)
GREY = (128, 128, 128)
MIN_COSINE = 0.999
"""As for the global CLS."""


class SegmentSettings(StageSettings):
    """A segment is an instance where the cache has the stage `instances` (`units: instances`), else all pixels of a
    class. What lies outside it is painted (`fill`), then its tight box, or the whole frame (`masking`), is brought to
    the teacher's size whatever its aspect. Its spatial token is the mean of the dense features over its pixels, or
    over all of them (`pool`); `spatial: false` leaves it out. Smaller ones than `min_pixels` have no token."""

    units: Literal["instances", "classes"] = "instances"
    fill: Literal["grey", "zero", "mean", "none"] = "grey"
    masking: Literal["box", "frame"] = "box"
    spatial: bool = True
    pool: Literal["mask", "all"] = "mask"
    min_pixels: int = Field(default=1, ge=1)

    def idle(self) -> Mapping[str, str]:
        """See `StageSettings.idle`."""
        return {} if self.spatial else {"pool": "segments.spatial is off"}


class Segment(NamedTuple):
    """One segment of an image: how to find its pixels, its class, and these."""

    id: int
    class_id: int
    mask: NDArray[np.bool_]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Its tight box x0, y0, x1, y1, ends exclusive."""
        rows, cols = (np.flatnonzero(self.mask.any(axis)) for axis in (1, 0))
        return int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1


class Segments(Stage):
    """Global and spatial token of every annotated segment."""

    name = "segments"
    Settings = SegmentSettings
    settings: SegmentSettings
    needs = ("labels",)
    uses = ("instances",)
    default = False
    live = True
    inspected = (CLS, SPATIAL, CLASS)

    def upstream(self, outline: Outline) -> tuple[str, ...]:
        """Units that are classes do not look at instances."""
        return self.needs if self.settings.units == "classes" else super().upstream(outline)

    def check(self, outline: Outline) -> None:
        """See `Stage.check`; spatial tokens must be of the space of the global ones."""
        super().check(outline)
        teacher = outline.teacher
        if self.settings.spatial and (teacher.mask_teacher or teacher.dense_dim != teacher.dim):
            raise ConfigError(
                f"segments.spatial: the dense features {teacher.dense_features!r} are not of the space of the "
                "teacher's image embeddings and text.",
                "Choose projected ones (--dense-features plain or value), or none: --set segments.spatial=false.",
            )

    def decisive(self, outline: Outline) -> tuple[str, ...]:
        """The teacher, as far as it is asked."""
        return (*CLS_FACTS, *(DENSE_FACTS if self.settings.spatial else ()), "num_classes")

    def axes(self, outline: Outline) -> dict[str, int]:
        """The edges of a box."""
        return {"side": 4}

    def arrays(self, outline: Outline) -> dict[str, ArrayRecord]:
        """See `Stage.arrays`."""
        token = ArrayRecord(axes=("channel",), dtype="float16", end=END, chunk=64)
        return {
            CLS: token,
            **({SPATIAL: token} if self.settings.spatial else {}),
            ID: ArrayRecord(dtype="int16", end=END),
            CLASS: ArrayRecord(dtype="int16", end=END),
            AREA: ArrayRecord(dtype="float32", end=END),
            BOX: ArrayRecord(axes=("side",), dtype="int32", end=END),
            END: ArrayRecord(dtype="uint32"),
        }

    def compute(self, batch: Batch) -> Items:
        """Passes are those of one image: how many rows are computed together, which views decide, is nothing to its
        bits. Where the dense pass has the native size, one gives both tokens."""
        found = self._segments(batch)
        tokens = [self._tokens(batch, image(batch, i), row) for i, row in enumerate(found)]
        paths = (CLS, SPATIAL) if self.settings.spatial else (CLS,)
        return {
            **{path: [row[path] for row in tokens] for path in paths},
            ID: [np.array([s.id for s in row], np.int16) for row in found],
            CLASS: [np.array([s.class_id for s in row], np.int16) for row in found],
            AREA: [np.array([s.mask.mean() for s in row], np.float32) for row in found],
            BOX: [np.array([s.box for s in row], np.int32).reshape(-1, 4) for row in found],
        }

    def _segments(self, batch: Batch) -> list[list[Segment]]:
        """The segments of every image of a batch."""
        maps = label_maps(batch)
        if self.settings.units == "classes" or MAP not in batch:
            return [by_class(labels, self.settings.min_pixels) for labels in maps]
        flat = batch.items(MAP)
        return [
            by_instance(numbers.reshape(labels.shape), labels, self.settings.min_pixels)
            for numbers, labels in zip(flat, maps, strict=True)
        ]

    def _tokens(
        self, batch: Batch, pixels: NDArray[np.uint8], segments: list[Segment]
    ) -> dict[str, NDArray[np.float32]]:
        """Tokens [n, D] of the segments of one image."""
        teacher, spatial = batch.manifest.teacher, self.settings.spatial
        if not segments:
            none = np.zeros((0, teacher.dim), np.float32)
            return {CLS: none, SPATIAL: none}
        colour = tuple(round(255 * c) for c in teacher.mean)

        def cut(side: int, interpolation: Interpolation) -> NDArray[np.uint8]:
            shown = (self._cut(pixels, s, colour, side, interpolation) for s in segments)
            return np.stack(list(shown))

        if not spatial:
            return {CLS: batch.embed_images(cut(teacher.image_size, teacher.interpolation))}
        tower = teacher.dense_tower
        cls, tokens = batch.dense(
            cut(tower.dense_size, tower.interpolation)
        )  # [n, D], [n, h, w, D]
        if not teacher.one_pass:
            cls = batch.embed_images(cut(teacher.image_size, teacher.interpolation))
        if self.settings.pool == "all":
            return {CLS: cls, SPATIAL: tokens.mean((1, 2))}
        pooled = (pool(t, s.mask, self._place(s)) for t, s in zip(tokens, segments, strict=True))
        return {CLS: cls, SPATIAL: np.stack(list(pooled))}

    def _cut(
        self,
        pixels: NDArray[np.uint8],
        segment: Segment,
        colour: tuple[int, ...],
        side: int,
        interpolation: Interpolation,
    ) -> NDArray[np.uint8]:
        """What the teacher is shown of a segment: cut first, so that nothing beside it gets into its edge."""
        x0, y0, x1, y1 = self._place(segment)
        part = painted(pixels, segment, self.settings, colour)[y0:y1, x0:x1]
        return crop_image(part, (0, 0, x1 - x0, y1 - y0), False, side, interpolation)

    def _place(self, segment: Segment) -> tuple[int, int, int, int]:
        """What of the image the teacher is shown."""
        height, width = segment.mask.shape
        return segment.box if self.settings.masking == "box" else (0, 0, width, height)

    def passes(self, cache: Cache) -> Mapping[str, int]:
        """One a segment, or two where the dense pass has another size."""
        m = cache.manifest
        ends = cache.column(END)
        count = int(sum(ends[m.block_range(block)[-1]] for block in range(m.blocks)))
        return {self.name: count * (2 if self._twice(m) else 1)}

    def _twice(self, manifest: Manifest) -> bool:
        return self.settings.spatial and not manifest.teacher.one_pass

    def inspect(self, block: Block) -> Iterator[Finding]:
        """Segments of unseen or unknown classes; tokens that are not finite."""
        seen = np.array(block.manifest.seen)
        tokens = [path for path in (CLS, SPATIAL) if path in block.arrays]
        for row in block.rows.tolist():
            at = row - block.start
            if not np.isin(block.item(CLASS, at), seen).all():
                yield Finding("leakage", f"row {row}", "a segment is of an unseen or unknown class")
            if not all(np.isfinite(block.item(path, at)).all() for path in tokens):
                yield Finding("values", f"row {row}", "a token of a segment is not finite")

    def compare(self, stored: Items, anew: Items) -> Likeness:
        """By the cosine; segments must be those of the stored labels."""
        same = all(map(np.array_equal, stored[ID], anew[ID]))
        found = [cosine(stored[p], anew[p]) for p in (CLS, SPATIAL) if p in anew]
        return Likeness(min(found) if same else -1.0, MIN_COSINE, "cosine of segments (-1: others)")


def by_class(labels: NDArray[np.uint8], min_pixels: int) -> list[Segment]:
    """The segments of a label map uint8 [H, W] that are all pixels of a class, by class."""
    counts = np.bincount(labels.reshape(-1), minlength=256)[:IGNORE]
    ids = np.flatnonzero(counts >= min_pixels).tolist()
    return [Segment(i, i, labels == i) for i in ids]


def by_instance(
    numbers: NDArray[np.uint8], labels: NDArray[np.uint8], min_pixels: int
) -> list[Segment]:
    """The segments that are instances: `numbers` uint8 [H, W], 0: none, and the label map, uint8 [H, W]."""
    counts = np.bincount(numbers.reshape(-1))
    ids = [k for k in np.flatnonzero(counts >= min_pixels).tolist() if k]
    masks = [numbers == k for k in ids]
    return [Segment(k, int(labels[m][0]), m) for k, m in zip(ids, masks, strict=True)]


def painted(
    pixels: NDArray[np.uint8],
    segment: Segment,
    settings: SegmentSettings,
    mean_colour: tuple[int, ...],
) -> NDArray[np.uint8]:
    """An image uint8 [H, W, 3] in which nothing but a segment is left."""
    if settings.fill == "none":
        return pixels
    colour = {"grey": GREY, "zero": (0, 0, 0), "mean": mean_colour}[settings.fill]
    return np.where(segment.mask[..., None], pixels, np.array(colour, np.uint8))


def pool(
    tokens: NDArray[np.float32], mask: NDArray[np.bool_], place: tuple[int, int, int, int]
) -> NDArray[np.float32]:
    """Mean of the tokens of a crop under a mask; the weight of a token is the share of its cell that the mask covers.

    Args:
        tokens: float32 [h, w, D] of the crop.
        mask: bool [H, W] of the image.
        place: x0, y0, x1, y1 of the crop in the image; the mask covers some of it.

    Returns:
        float32 [D].
    """
    x0, y0, x1, y1 = place
    part = mask[y0:y1, x0:x1].astype(np.float64)
    rows, cols = (_overlaps(n, m) for n, m in zip(tokens.shape[:2], part.shape, strict=True))
    weights = rows @ part @ cols.T
    share = (weights / weights.sum()).astype(np.float32)
    pooled: NDArray[np.float32] = np.tensordot(share, tokens, 2)
    return pooled


def _overlaps(cells: int, pixels: int) -> NDArray[np.float64]:
    """How much of each of so many cells lies in each of so many pixels along the same line: [cells, pixels]."""
    a, b = np.linspace(0, 1, cells + 1), np.linspace(0, 1, pixels + 1)
    both = np.minimum(a[1:, None], b[None, 1:]) - np.maximum(a[:-1, None], b[None, :-1])
    overlaps: NDArray[np.float64] = np.clip(both, 0, None) * cells
    return overlaps
