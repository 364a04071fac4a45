"""Stage `clips`: of which clip an image is a frame, and which things of its frames are one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from c2s_cache import ArrayRecord, Block
from c2s_cache.integrity import Finding
from c2s_pipeline.batch import Batch
from c2s_pipeline.source import SplitInfo
from c2s_pipeline.stages.base import Items, Outline, Stage
from c2s_pipeline.stages.instances import MAP, Instances

CLIP, THING, END = "clips/clip", "clips/thing", "clips/end"


class Clips(Stage):
    """Rows with one number are frames of one clip. Where things are told apart, those of one class and number are one
    thing in all frames: numbers of the map itself differ from frame to frame."""

    name = "clips"
    needs = ("images",)
    uses = (Instances.name,)
    default = False
    sourced = True
    inspected = (CLIP,)

    def wanted(self, source: SplitInfo) -> bool:
        """Few data sets have clips."""
        return source.clips

    def arrays(self, outline: Outline) -> dict[str, ArrayRecord]:
        """See `Stage.arrays`."""
        clip = {CLIP: ArrayRecord(dtype="int64")}
        if Instances.name not in outline.stages:
            return clip
        return {
            **clip,
            THING: ArrayRecord(dtype="int32", end=END),
            END: ArrayRecord(dtype="uint32"),
        }

    def compute(self, batch: Batch) -> Items:
        """Numbers that follow from the name of the clip, and those that the data set gives its things."""
        names = ((batch.source.clip(image_id) or image_id) for image_id in batch.ids)
        clips = [np.array(clip_number(name)) for name in names]
        if MAP not in batch:
            return {CLIP: clips}
        instances = (batch.source.instances(image_id) for image_id in batch.ids)
        things = map(numbers_of, batch.items(MAP), instances)
        return {CLIP: clips, THING: list(things)}

    def inspect(self, block: Block) -> Iterator[Finding]:
        """Frames of a clip that do not follow each other: an earlier version shuffled them."""
        usable = block.arrays[CLIP][block.rows - block.start]
        if 1 + np.count_nonzero(np.diff(usable)) > len(np.unique(usable)) > 0:
            yield Finding("values", f"block of row {block.start}", "frames of a clip lie apart")


def clip_number(name: str) -> int:
    """Number of a clip: the first eight bytes of the SHA-256 of its name, lowest first, with a sign."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little", signed=True)


def numbers_of(segments: NDArray[np.uint8], instances: NDArray[np.integer]) -> NDArray[np.int32]:
    """What the data set calls the segments 1, 2, ... of an image.

    Args:
        segments: uint8 [H W], of the stage `instances`; 0: none.
        instances: [H, W], of the data set.

    Returns:
        int32, one for each segment.
    """
    found, first = np.unique(segments, return_index=True)
    numbers: NDArray[np.int32] = instances.reshape(-1)[first[found > 0]].astype(np.int32)
    return numbers
