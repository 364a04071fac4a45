"""Stage `global_cls`: the teacher's image embedding of each view."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from c2s_cache import ArrayRecord, Block, Cache
from c2s_cache.integrity import Finding
from c2s_cache.manifest import USABLE
from c2s_pipeline.batch import Batch
from c2s_pipeline.stages.base import CLS_FACTS, Items, Likeness, Outline, Stage, cosine
from c2s_pipeline.stages.dense import DENSE_PASS, dense_pass
from c2s_pipeline.stages.views import view_pixels

PATH = "global_cls/cls"
MIN_COSINE = 0.999
"""Smallest cosine between a stored CLS token and the same computed anew: rounding to float16, another
batch or another device stay above 0.9999, another image or other weights below."""


class GlobalCLS(Stage):
    """CLS embedding of the view, as `encode_image` gives it: not normalised."""

    name = "global_cls"
    needs = ("views",)
    facts = CLS_FACTS
    live = True
    inspected = (PATH,)

    def arrays(self, outline: Outline) -> dict[str, ArrayRecord]:
        """See `Stage.arrays`."""
        return {PATH: ArrayRecord(axes=("view", "channel"), dtype="float16")}

    def compute(self, batch: Batch) -> Items:
        """One pass a view at the native size; the dense pass gives the same where it has that size."""
        teacher = batch.manifest.teacher
        if teacher.one_pass:
            cls: NDArray[np.float32] = dense_pass(batch)[0]
        else:
            cls = batch.embed_images(view_pixels(batch, teacher.image_size))
        return {PATH: list(cls)}

    def passes(self, cache: Cache) -> Mapping[str, int]:
        """One a view."""
        same = cache.manifest.teacher.one_pass
        views = int(np.count_nonzero(cache.column(USABLE))) * cache.manifest.views
        return {DENSE_PASS if same else self.name: views}

    def inspect(self, block: Block) -> Iterator[Finding]:
        """Tokens that are not finite."""
        finite = np.isfinite(block.arrays[PATH]).all((1, 2))
        for row in block.rows.tolist():
            if not finite[row - block.start]:
                yield Finding("values", f"row {row}", "a global CLS token is not finite")

    def compare(self, stored: Items, anew: Items) -> Likeness:
        """By the cosine."""
        return Likeness(cosine(stored[PATH], anew[PATH]), MIN_COSINE, "cosine of the global CLS")
