"""Stage `labels`: label maps without the unseen classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2s_cache import IGNORE, ArrayRecord, Block, UnreadableImage
from c2s_cache.integrity import Finding
from c2s_cache.label_map import size_mismatch, without
from c2s_pipeline.batch import Batch
from c2s_pipeline.source import SplitInfo
from c2s_pipeline.stages.base import Items, Outline, Stage
from c2s_pipeline.stages.images import image_sizes


class Labels(Stage):
    """What training may know of the annotation."""

    name = "labels"
    annotates = True
    needs = ("images",)
    facts = ("unseen", "num_classes")
    sourced = True
    inspected = ("labels/data", "labels/ignored")

    def wanted(self, source: SplitInfo) -> bool:
        """Photos alone have no label maps."""
        return source.labelled

    def arrays(self, outline: Outline) -> dict[str, ArrayRecord]:
        """See `Stage.arrays`."""
        return {
            "labels/data": ArrayRecord(
                dtype="uint8", end="labels/end", chunk=1 << 20, shard=64 << 20
            ),
            "labels/ignored": ArrayRecord(
                dtype="bool", end="labels/end", chunk=1 << 20, shard=64 << 20
            ),
            "labels/end": ArrayRecord(dtype="uint64"),
        }

    def compute(self, batch: Batch) -> Items:
        """Label maps of the data set; an image of another size than its label map cannot be used."""
        sizes = image_sizes(batch)

        def read(i: int) -> NDArray[np.uint8]:
            labels, (height, width) = batch.source.labels(batch.ids[i]), sizes[i]
            if (what := size_mismatch(labels, height, width)) is not None:
                raise UnreadableImage(what)
            return labels

        found = batch.each(read)
        shown = [without(labels, batch.manifest.unseen).reshape(-1) for labels in found]
        for data, labels in zip(shown, found, strict=True):
            batch.note(self.name, (np.bincount(data, minlength=256), int((labels == IGNORE).sum())))
        return {
            "labels/data": shown,
            "labels/ignored": [(labels == IGNORE).reshape(-1) for labels in found],
        }

    def receipt(self, notes: Sequence[Any]) -> dict[str, Any]:
        """Pixels of the block by seen class, and of no class (SPEC 5.1.2)."""
        counts = sum((pixels for pixels, _ in notes), np.zeros(256, np.int64))
        pixels = {str(i): int(counts[i]) for i in np.flatnonzero(counts[:IGNORE])}
        return {"pixels": pixels, "ignored": sum(ignored for _, ignored in notes)}

    def inspect(self, block: Block) -> Iterator[Finding]:
        """Ids of unseen or unknown classes; annotated pixels that are said to be ignored."""
        allowed = np.array([*block.manifest.seen, IGNORE])
        for row in block.rows.tolist():
            labels = block.item("labels/data", row - block.start)
            leaked = np.setdiff1d(np.unique(labels), allowed)
            if leaked.size:
                what = f"label map holds unseen or unknown ids {leaked.tolist()}"
                yield Finding("leakage", f"row {row}", what)
            if (labels[block.item("labels/ignored", row - block.start)] != IGNORE).any():
                yield Finding("values", f"row {row}", "an annotated pixel is said to be ignored")


def label_maps(batch: Batch) -> list[NDArray[np.uint8]]:
    """Label map uint8 [H, W] of every image of a batch; all 255 where the cache has none."""

    def maps() -> list[NDArray[np.uint8]]:
        sizes = image_sizes(batch)
        if "labels/data" not in batch:
            return [np.full(size, IGNORE, np.uint8) for size in sizes]
        flat = batch.items("labels/data")
        return [labels.reshape(size) for labels, size in zip(flat, sizes, strict=True)]

    return batch.shared("label maps", maps)
