"""Stage `instances`: which pixels of an annotated class are one thing, where the data set tells."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from c2s_cache import IGNORE, ArrayRecord, Block, UnreadableImage
from c2s_cache.integrity import Finding
from c2s_cache.label_map import size_mismatch
from c2s_pipeline.batch import Batch
from c2s_pipeline.source import SplitInfo
from c2s_pipeline.stages.base import Items, Outline, Stage
from c2s_pipeline.stages.labels import label_maps

MAP, LABELS = "instances/map", "labels/data"
MOST = 254
"""Segments of an image; in a view 255 stands for padding."""


class Instances(Stage):
    """Segments of the label map without its unseen classes: their pixels have none."""

    name = "instances"
    needs = ("labels",)
    default = False
    sourced = True
    inspected = (MAP,)

    def wanted(self, source: SplitInfo) -> bool:
        """Few data sets tell things of one class apart."""
        return source.labelled and source.instanced

    def arrays(self, outline: Outline) -> dict[str, ArrayRecord]:
        """See `Stage.arrays`."""
        return {
            MAP: ArrayRecord(dtype="uint8", end="instances/end", chunk=1 << 20, shard=64 << 20),
            "instances/end": ArrayRecord(dtype="uint64"),
        }

    def compute(self, batch: Batch) -> Items:
        """Of the data set's maps, what the label maps of the cache leave."""
        maps = label_maps(batch)

        def read(i: int) -> NDArray[np.uint8]:
            found = batch.source.instances(batch.ids[i])
            if (what := size_mismatch(found, *maps[i].shape)) is not None:
                raise UnreadableImage(what.replace("label map", "instance map"))
            return numbered(found, maps[i]).reshape(-1)

        return {MAP: batch.each(read)}

    def inspect(self, block: Block) -> Iterator[Finding]:
        """Numbers that are left out: a segment of an unseen class would be there for all to count."""
        for row in block.rows.tolist():
            numbers = np.unique(block.item(MAP, row - block.start))
            numbers = numbers[numbers > 0]
            if not np.array_equal(numbers, np.arange(1, len(numbers) + 1)):
                yield Finding("leakage", f"row {row}", "segments are not numbered 1, 2, 3, ...")


def numbered(instances: NDArray[np.integer], labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Segments of an image as they are stored: pixels of one instance and one annotated class.

    Args:
        instances: [H, W], number of the instance at every pixel, 0: none.
        labels: uint8 [H, W], 255: not annotated.

    Returns:
        uint8 [H, W], 0: none, 1 ... n: the segments by class, then by their first pixel; of more than 254 the
        largest.
    """
    there = (instances > 0) & (labels != IGNORE)
    keys = labels[there].astype(np.int64) << 32 | instances[there].astype(np.int64)
    _, first, inverse, counts = np.unique(
        keys, return_index=True, return_inverse=True, return_counts=True
    )
    kept = np.sort(np.argsort(-counts, kind="stable")[:MOST])
    kept = kept[np.lexsort((first[kept], labels[there][first[kept]]))]
    number = np.zeros(len(counts), np.uint8)
    number[kept] = np.arange(1, len(kept) + 1)
    out = np.zeros(labels.shape, np.uint8)
    out[there] = number[inverse]
    return out
