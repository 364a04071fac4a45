"""Stage `images`: the source files byte for byte, their sizes and names, and which of them can be used."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2s_cache import ArrayRecord, Block
from c2s_cache.integrity import Finding
from c2s_cache.manifest import ID_DATA, ID_END, USABLE
from c2s_cache.picture import decode_image, opened, rgb, undecodable
from c2s_pipeline.batch import Batch
from c2s_pipeline.stages.base import Items, Outline, Stage


class Images(Stage):
    """Every other stage depends on this one."""

    name = "images"
    facts = ("parts", "block_rows")
    sourced = True
    inspected = ("images/data", "images/digest")

    def arrays(self, outline: Outline) -> dict[str, ArrayRecord]:
        """See `Stage.arrays`; the names and the usable rows are arrays of every cache."""
        return {
            "images/data": ArrayRecord(
                dtype="uint8", end="images/end", chunk=256 << 10, shard=16 << 20, zstd=None
            ),
            "images/end": ArrayRecord(dtype="uint64"),
            "images/size": ArrayRecord(axes=("axis",), dtype="int32"),
            "images/digest": ArrayRecord(axes=("byte",), dtype="uint8", zstd=None),
            USABLE: ArrayRecord(dtype="bool"),
            ID_DATA: ArrayRecord(dtype="uint8", end=ID_END, chunk=64 << 10, shard=1 << 20),
            ID_END: ArrayRecord(dtype="uint32"),
        }

    def axes(self, outline: Outline) -> dict[str, int]:
        """Height and width; the bytes of a digest."""
        return {"axis": 2, "byte": 32}

    def compute(self, batch: Batch) -> Items:
        """The files as they are; one that cannot be decoded is left out."""
        data: list[bytes] = []

        def read(i: int) -> tuple[int, ...]:
            encoded = batch.source.encoded(batch.ids[i])

            def decoded() -> NDArray[np.uint8]:
                with opened(encoded, undecodable) as picture:
                    if picture.more:
                        batch.note(self.name, batch.rows[i])
                    return rgb(picture.image)

            size = batch.per_row("image", i, decoded).shape[:2]
            data.append(encoded)
            return size

        sizes = batch.each(read)
        return {
            "images/data": [np.frombuffer(file, np.uint8) for file in data],
            "images/size": [np.array(size, np.int32) for size in sizes],
            "images/digest": [
                np.frombuffer(hashlib.sha256(file).digest(), np.uint8) for file in data
            ],
            USABLE: [np.array(True)] * len(batch),
            ID_DATA: [np.frombuffer(name.encode(), np.uint8) for name in batch.ids],
        }

    def receipt(self, notes: Sequence[Any]) -> dict[str, Any]:
        """Rows of which the file has more than the frame or page that is taken (SPEC 4.1)."""
        return {"first_frame": sorted(set(notes))} if notes else {}

    def inspect(self, block: Block) -> Iterator[Finding]:
        """Image bytes whose digest is not the one that was taken when they were stored."""
        for row in block.rows.tolist():
            at = row - block.start
            found = hashlib.sha256(block.item("images/data", at).tobytes()).digest()
            if found != block.item("images/digest", at).tobytes():
                what = "image bytes are not those the row was built from"
                yield Finding("pairing", f"row {row}", what)


def image(batch: Batch, i: int) -> NDArray[np.uint8]:
    """The i-th image of a batch, decoded: uint8 [H, W, 3].

    Raises:
        UnreadableImage: its bytes cannot be decoded.
    """

    def decoded() -> NDArray[np.uint8]:
        files = batch.shared("images/data", lambda: batch.items("images/data"))
        return decode_image(files[i].tobytes())

    return batch.per_row("image", i, decoded)


def image_sizes(batch: Batch) -> list[tuple[int, int]]:
    """Height and width of every image of a batch."""
    return [(int(size[0]), int(size[1])) for size in batch.items("images/size")]
