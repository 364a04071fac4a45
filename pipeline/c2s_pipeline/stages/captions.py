"""Stage `captions`: which words of a list the captions of an image have (GKC's grounding)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2s_cache import ArrayRecord, Block
from c2s_cache.integrity import Finding
from c2s_cache.receipt import Receipt
from c2s_pipeline.batch import Batch
from c2s_pipeline.phrases import Phrases
from c2s_pipeline.source import SplitInfo
from c2s_pipeline.stages.base import Items, Outline, Stage
from c2s_pipeline.stages.words import hidden, listed

WORD, END = "captions/word", "captions/end"
CLOSED = -1
"""Stands behind the last word of every caption."""


class Captions(Stage):
    """Of every caption its words among those of the stage `words`; captions without one are left out. A caption that
    names an unseen class says nothing of it."""

    name = "captions"
    needs = ("images", "words")
    facts = ("classes", "unseen")
    default = False
    sourced = True
    inspected = (WORD,)

    def wanted(self, source: SplitInfo) -> bool:
        """Few data sets have captions."""
        return source.captioned

    def arrays(self, outline: Outline) -> dict[str, ArrayRecord]:
        """See `Stage.arrays`."""
        return {WORD: ArrayRecord(dtype="int32", end=END), END: ArrayRecord(dtype="uint32")}

    def compute(self, batch: Batch) -> Items:
        """Names of unseen classes are looked for, too, so that nothing inside them is taken for a word."""
        m = batch.manifest
        words = [(word, number) for number, (_, word) in enumerate(listed(m))]
        phrases = Phrases([*((name, CLOSED) for name in hidden(m)), *words])

        def read(i: int) -> NDArray[np.int32]:
            captions = batch.source.captions(batch.ids[i])
            found = [[n for n in phrases.found(c) if n != CLOSED] for c in captions]
            kept = [words for words in found if words]
            batch.note(self.name, (len(captions), len(kept), sum(map(len, kept))))
            return np.array([n for words in kept for n in (*words, CLOSED)], np.int32)

        return {WORD: batch.each(read)}

    def receipt(self, notes: Sequence[Any]) -> dict[str, Any]:
        """Captions of the block, those that have words, and these."""
        counts = np.array(notes, np.int64).reshape(-1, 3).sum(0)
        return dict(zip(("captions", "kept", "words"), map(int, counts), strict=True))

    def describe(self, receipts: Iterable[Receipt]) -> tuple[dict[str, Any], str | None]:
        """How many captions have words of the list, and how many words each."""
        notes = [receipt.notes for receipt in receipts]
        every, kept, words = (sum(n[key] for n in notes) for key in ("captions", "kept", "words"))
        facts = {"captions": every, "captions_with_words": kept, "words": words}
        if not kept:
            return facts, f"captions: {every:,}, none of them with a word of the list"
        said = f"captions: {kept:,} of {every:,} have words of the list, {words / kept:.1f} each"
        return facts, said

    def inspect(self, block: Block) -> Iterator[Finding]:
        """Numbers of no word, and captions that do not end."""
        count = block.manifest.axes["word"]
        for row in block.rows.tolist():
            words = block.item(WORD, row - block.start)
            if words.size and (words.min() < CLOSED or words.max() >= count or words[-1] != CLOSED):
                yield Finding("values", f"row {row}", "its captions are no lists of words")
