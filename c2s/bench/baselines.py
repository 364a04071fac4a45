"""Other streaming libraries behind one call: write records, then read them all back, shuffled.

They are not dependencies: the ones that can be imported take part. Records are plain bytes; nothing is
ever unpickled.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from c2s_cache import Sample

SHARD_BYTES = 16 << 20
Reader = Callable[[], Iterator[bytes]]
"""One shuffled epoch of records."""


def pack(sample: Sample) -> bytes:
    """A sample as one record: a JSON header with dtypes and shapes, then the bytes of its arrays."""
    arrays = {path: np.ascontiguousarray(values) for path, values in sample.arrays.items()}
    kinds = {path: (values.dtype.str, values.shape) for path, values in arrays.items()}
    head = json.dumps({"row": sample.row, "view": sample.view, "arrays": kinds}).encode()
    body = [values.tobytes() for values in arrays.values()]
    return len(head).to_bytes(4, "little") + head + b"".join(body)


def unpack(record: bytes) -> Sample:
    """The sample of a record."""
    start = 4 + int.from_bytes(record[:4], "little")
    head = json.loads(bytes(record[4:start]))
    arrays: dict[str, Any] = {}
    for path, (kind, shape) in head["arrays"].items():
        values = np.frombuffer(record, kind, math.prod(shape), start)
        arrays[path] = values.reshape(shape)
        start += values.nbytes
    return Sample(head["row"], head["view"], arrays)


def baselines(
    records: Callable[[], Iterable[bytes]], folder: Path
) -> tuple[dict[str, Reader], dict[str, str]]:
    """Write the records with every library that is there.

    Args:
        records: gives them, once per library.
        folder: where to write.

    Returns:
        a reader per library, and why others are left out.
    """
    known = {
        "litdata": (_litdata, "litdata"),
        "mosaicml-streaming": (_streaming, "streaming"),
        "webdataset": (_webdataset, "webdataset"),
    }
    readers: dict[str, Reader] = {}
    absent: dict[str, str] = {}
    for name, (write, module) in known.items():
        try:
            library = importlib.import_module(module)
        except ImportError as error:
            absent[name] = f"cannot be imported ({error})"
            continue
        readers[name] = write(library, records(), folder / name)
    return readers, absent


def _litdata(litdata: Any, records: Iterable[bytes], folder: Path) -> Reader:
    writers = importlib.import_module("litdata.streaming.writer")
    folder.mkdir(parents=True)
    writer = writers.BinaryWriter(str(folder), chunk_bytes=SHARD_BYTES)
    for i, record in enumerate(records):
        writer[i] = record
    writer.done()
    writer.merge()
    return lambda: iter(litdata.StreamingDataset(str(folder), shuffle=True))


def _streaming(streaming: Any, records: Iterable[bytes], folder: Path) -> Reader:
    options = {"out": str(folder), "columns": {"record": "bytes"}, "size_limit": SHARD_BYTES}
    with streaming.MDSWriter(**options) as writer:
        for record in records:
            writer.write({"record": record})
    # One per process: its shared memory is named after the folder.
    dataset = streaming.StreamingDataset(local=str(folder), shuffle=True, batch_size=1)
    return lambda: (item["record"] for item in dataset)


def _webdataset(wds: Any, records: Iterable[bytes], folder: Path) -> Reader:
    folder.mkdir(parents=True)
    pattern = str(folder / "%06d.tar")
    with wds.ShardWriter(pattern, maxsize=SHARD_BYTES, verbose=0) as writer:
        for i, record in enumerate(records):
            writer.write({"__key__": f"{i:08d}", "record": record})
    shards = sorted(str(f) for f in folder.glob("*.tar"))

    def read() -> Iterator[bytes]:
        dataset = wds.WebDataset(shards, shardshuffle=len(shards), empty_check=False)
        return (item["record"] for item in dataset.shuffle(1000))

    return read
