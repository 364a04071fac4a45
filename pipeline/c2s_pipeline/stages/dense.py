"""Stage `dense`: the teacher's dense features of each view, at the precision of a tier."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from c2s_cache import ArrayRecord, Cache, ConfigError, DataError, Manifest
from c2s_cache.manifest import USABLE
from c2s_cache.receipt import Receipt
from c2s_cache.views import source_cells
from c2s_pipeline.batch import Batch
from c2s_pipeline.clustering.quantisation import QuantisationError
from c2s_pipeline.imported import any_array, read_array
from c2s_pipeline.source import SplitInfo
from c2s_pipeline.stages.base import (
    DENSE_FACTS,
    Items,
    Likeness,
    Outline,
    cosine,
    option,
)
from c2s_pipeline.stages.images import image_sizes
from c2s_pipeline.stages.imported import Importing, ImportSettings
from c2s_pipeline.stages.views import BOX, FLIP, view_pixels

TOKENS, SCALE = "dense/tokens", "dense/scale"
DENSE_PASS = "dense pass"
"""Name of the pass that gives dense features, and a CLS embedding with them."""
MIN_COSINE = {"float16": 0.999, "int8": 0.99}
"""Smallest cosine between a stored token and the same computed anew, by tier."""


class DenseSettings(ImportSettings):
    """`tier` in which tokens are stored: "float16" rounds them, "int8" saves half of that, "none" stores nothing."""

    tier: Literal["none", "int8", "float16"] = option(
        "--dense", "Dense feature tier: none, int8 or float16", default="float16"
    )
    folder: Path | None = option(
        "--dense-from",
        "Folder of dense features [h, w, C] by image id (.npy, .npz, .safetensors, or a Zarr group), in place of the "
        "teacher's",
        exclude=True,
    )


class Dense(Importing):
    """Dense features, from which masks can be made anew without the teacher; the teacher's, or imported ones."""

    name = "dense"
    Settings = DenseSettings
    settings: DenseSettings
    needs = ("views",)
    facts = DENSE_FACTS
    live = True
    acting = ("tier",)
    of_teacher = ("mask_teacher", "mask_pretrained", "dense_size", "dense_features")

    def wanted(self, source: SplitInfo) -> bool:
        """Not in the tier "none"."""
        return bool(self.settings.tier != "none")

    def check(self, outline: Outline) -> None:
        """See `Stage.check`; masks are made of imported features as they are stored."""
        super().check(outline)
        if self.brings(outline) and self.settings.tier != "float16":
            raise ConfigError(
                f"dense.tier={self.settings.tier}: imported features are kept in float16."
            )

    def decisive(self, outline: Outline) -> tuple[str, ...]:
        """Nothing but the folder decides what is imported."""
        return () if self.brings(outline) else self.facts

    def axes(self, outline: Outline) -> dict[str, int]:
        """Of imported features, in place of the teacher's."""
        if self.folder is not None:
            side = self.settings.cells
            channels = any_array(self.folder).shape[-1]
            return {"grid_y": side, "grid_x": side, "dense_channel": channels}
        if self.brings(outline) and outline.base is not None:
            return outline.base.stage(self.name).axes
        return {}

    def asks_teacher(self, manifest: Manifest, missing: Collection[str]) -> bool:
        """Not for what is imported."""
        return not self.imported

    def arrays(self, outline: Outline) -> dict[str, ArrayRecord]:
        """See `Stage.arrays`."""
        grid = ("view", "grid_y", "grid_x")
        int8 = self.settings.tier == "int8"
        tokens = ArrayRecord(
            axes=(*grid, "dense_channel"),
            dtype="int8" if int8 else "float16",
            chunk=1 if outline.block_rows % 4 else 4,
        )
        scale = {SCALE: ArrayRecord(axes=grid, dtype="float16")} if int8 else {}
        return {TOKENS: tokens, **scale}

    def compute(self, batch: Batch) -> Items:
        """One pass a view; how far the tier is from the exact tokens is noted."""
        exact = self._features(batch) if self.imported else dense_pass(batch)[1]
        stored = dense_tier(exact, self.settings.tier)
        batch.note(self.name, QuantisationError.of(exact, decoded(stored), batch.device))
        return {path: list(values) for path, values in stored.items()}

    def _features(self, batch: Batch) -> NDArray[np.float32]:
        """Imported features of all views, float32 [n, cells, cells, C]: of each cell those at its centre."""
        views, side, found = batch.manifest.views, self.settings.cells, []
        channels, sizes = batch.manifest.axes["dense_channel"], image_sizes(batch)
        maps = [read_array(batch.source, self.name, image_id) for image_id in batch.ids]
        for image_id, features in zip(batch.ids, maps, strict=True):
            check_features(features, channels, image_id)
        for n, (box, flip) in enumerate(zip(batch.items(BOX), batch.items(FLIP), strict=True)):
            features, size = maps[n // views], sizes[n // views]
            rows, cols = source_cells(size, features.shape, box, bool(flip), side)
            found.append(features.take(rows, 0).take(cols, 1))
        return np.stack(found).astype(np.float32)

    def choices(self, manifest: Manifest) -> Mapping[str, Mapping[str, int]]:
        """Every tier, not compressed: tokens hardly get smaller by that."""
        axes = manifest.axes
        height, width, channels = axes["grid_y"], axes["grid_x"], axes["dense_channel"]
        cells = manifest.views * height * width
        return {
            "tier": {"float16": 2 * cells * channels, "int8": cells * (channels + 2), "none": 0}
        }

    def receipt(self, notes: Sequence[Any]) -> dict[str, Any]:
        """The error of the block's tokens (SPEC 5.1.1)."""
        return {"error": sum(notes, QuantisationError()).notes()}

    def passes(self, cache: Cache) -> Mapping[str, int]:
        """One a view, but of what is imported."""
        return {} if self.imported else dense_passes(cache)

    def compare(self, stored: Items, anew: Items) -> Likeness:
        """By the cosine of every token, as a reader gets it."""
        a, b = (_vectors(items) for items in (stored, anew))
        return Likeness(cosine(a, b), MIN_COSINE[self.settings.tier], "cosine of dense features")

    def describe(self, receipts: Iterable[Receipt]) -> tuple[dict[str, Any], str | None]:
        """Error of the tier over the finished blocks: `cosine_mean` and `cosine_min` of stored to float32 tokens, and
        `cluster_agreement`, the share of tokens that K-means from the stored tier puts into the same cluster."""
        found = [r.notes["error"] for r in receipts if r.notes]
        tokens = sum(e["tokens"] for e in found)
        facts: dict[str, Any] = {"tier": self.settings.tier}
        if not tokens:
            return facts, f"dense tier {self.settings.tier}"
        facts["error"] = error = {
            "cosine_mean": sum(e["cosine_sum"] for e in found) / tokens,
            "cosine_min": min(e["cosine_min"] for e in found),
            "cluster_agreement": sum(e["agreeing"] for e in found)
            / sum(e["clustered"] for e in found),
        }
        return facts, (
            f"dense tier {self.settings.tier} against float32: cosine {error['cosine_mean']:.6f} on average, "
            f"{error['cosine_min']:.6f} at worst; {error['cluster_agreement']:.2%} of tokens in the same cluster"
        )


def check_features(features: NDArray[Any], channels: int, image_id: str) -> None:
    """Refuse imported features that are no finite floating point [h, w, channels].

    Raises:
        DataError: they are not.
    """
    where = f"dense features of the image {image_id}"
    if features.dtype.kind != "f" or features.ndim != 3 or features.shape[-1] != channels:
        raise DataError(
            f"{where}: expected floating point [h, w, {channels}], got {features.dtype} "
            f"{list(features.shape)}."
        )
    if not features.size or not np.isfinite(features).all():
        raise DataError(f"{where} are empty or not finite.")


def dense_pass(batch: Batch) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Embeddings float32 [n, D'] of the model that gives dense features, and these, float32 [n, h, w, C], of all views
    of a batch, from one pass."""
    tower = batch.manifest.teacher.dense_tower
    pixels = partial(view_pixels, batch, tower.dense_size, tower.interpolation)
    return batch.shared(DENSE_PASS, lambda: batch.dense(pixels()))


def dense_passes(cache: Cache) -> Mapping[str, int]:
    """Passes that give dense features of a whole cache: one a view."""
    usable = int(np.count_nonzero(cache.column(USABLE)))
    return {DENSE_PASS: usable * cache.manifest.views}


def dense_tokens(batch: Batch) -> NDArray[np.float32]:
    """Dense features of all views of a batch, rounded to float16: float32 [n, h, w, C].

    They come from the cache if it has them so, else from the teacher; the values are the same.
    """

    def rounded() -> NDArray[np.float16]:
        if TOKENS in batch and stores_float16(batch.manifest):
            return np.stack(batch.items(TOKENS))
        return dense_pass(batch)[1].astype(np.float16)

    return batch.shared("float16 tokens", rounded).astype(np.float32)


def stores_float16(manifest: Manifest) -> bool:
    """Whether a cache has, or is to have, dense features in the tier that masks are made of."""
    record = manifest.arrays.get(TOKENS)
    return record is not None and record.dtype == "float16"


def dense_tier(tokens: NDArray[np.float32], tier: str) -> dict[str, NDArray[Any]]:
    """Encode dense features for storage.

    "float16" rounds; "int8" divides each token by its largest magnitude / 127 and rounds, so that
    token = int8 * scale.

    Args:
        tokens: float32 [..., h, w, D].
        tier: "float16" or "int8".
    """
    if tier == "float16":
        return {TOKENS: tokens.astype(np.float16)}
    scale = (np.abs(tokens).max(-1) / 127).astype(np.float16)
    divisor = np.where(scale > 0, scale, np.float16(1)).astype(np.float32)
    quantised = np.clip(np.rint(tokens / divisor[..., None]), -127, 127).astype(np.int8)
    return {TOKENS: quantised, SCALE: scale}


def decoded(stored: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Tokens float32 as a reader of the stored arrays gets them (SPEC 3)."""
    tokens: NDArray[np.float32] = stored[TOKENS].astype(np.float32)
    if SCALE in stored:
        tokens = tokens * stored[SCALE].astype(np.float32)[..., None]
    return tokens


def _vectors(items: Items) -> list[NDArray[Any]]:
    count = len(items[TOKENS])
    one = ({path: values[i] for path, values in items.items()} for i in range(count))
    return [decoded(each).reshape(-1, each[TOKENS].shape[-1]) for each in one]
