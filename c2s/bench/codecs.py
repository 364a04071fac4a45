"""What lossless codecs gain on CLIP's features, and what every tier of a cache costs per image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numcodecs import LZ4, Blosc, Shuffle, Zlib, Zstd
from numpy.typing import NDArray

from c2s.bench.inputs import build_request
from c2s.bench.measure import alternate, machine
from c2s.datasets import load_dataset
from c2s_cache.picture import decode_image
from c2s_cache.views import canonical_box, crop_image
from c2s_pipeline.build.builder import load_teacher
from c2s_pipeline.stages.dense import SCALE, TOKENS, dense_tier

CODECS: dict[str, list[Any]] = {
    "none": [],
    "zstd 1": [Zstd(1)],
    "zstd 3": [Zstd(3)],
    "zstd 9": [Zstd(9)],
    "shuffle, zstd 3": ["shuffle", Zstd(3)],
    "blosc lz4, byte shuffle": [Blosc("lz4", 5, Blosc.SHUFFLE)],
    "blosc zstd 3, byte shuffle": [Blosc("zstd", 3, Blosc.SHUFFLE)],
    "blosc zstd 3, bit shuffle": [Blosc("zstd", 3, Blosc.BITSHUFFLE)],
    "lz4": [LZ4()],
    "zlib 6": [Zlib(6)],
}
"""Codecs that Zarr v3 has itself or takes from numcodecs; "shuffle" is by the item's own size."""


def bench_codecs(
    teacher: str | None = None,
    pretrained: str | None = None,
    images: int = 64,
    rounds: int = 3,
    advance: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Compression ratio, encoding and decoding speed per codec on dense and CLS features.

    Args:
        teacher, pretrained: default the bundled teacher, else random weights.
        images: Shapes scenes whose features are compressed, a chunk of four at a time.
        rounds: timed rounds per codec.
        advance: called after every round.
    """
    request = build_request(teacher, pretrained)
    model, _ = load_teacher(request)
    source = load_dataset("shapes").split("train")
    views = []
    for image_id in source.ids[:images]:
        image = decode_image(source.encoded(image_id))
        box = canonical_box(image.shape[0], image.shape[1], model.dense_size)
        views.append(crop_image(image, box, False, model.dense_size))
    cls, dense = (v.cpu().numpy() for v in _features(model, views, request.batch_size))
    quantised = dense_tier(dense, "int8")
    kinds: dict[str, NDArray[Any]] = {
        "dense float16": dense.astype(np.float16),
        "dense int8": quantised[TOKENS],
        "CLS float16": cls.astype(np.float16),
    }
    tables = {kind: _table(values, rounds, advance) for kind, values in kinds.items()}
    scales = quantised[SCALE]
    sizes = {
        "none": 0,
        "int8": kinds["dense int8"][0].nbytes + scales[0].nbytes,
        "float16": kinds["dense float16"][0].nbytes,
    }
    return {
        "bench": "codecs",
        "codecs": tables,
        "dense_bytes_per_image": sizes,
        "what": {
            "teacher": request.teacher.rpartition("/")[2],
            "images": images,
            "grid": list(model.grid),
            "width": model.dim,
            **machine(),
        },
    }


def _features(model: Any, views: list[NDArray[np.uint8]], batch: int) -> list[torch.Tensor]:
    parts = [model.dense(np.stack(views[i : i + batch])) for i in range(0, len(views), batch)]
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def _table(
    values: NDArray[Any], rounds: int, advance: Callable[[int], None] | None
) -> dict[str, Mapping[str, float]]:
    """Per codec: `ratio` raw / compressed, `encode` and `decode` in MB of raw data per second."""
    chunks = [values[i : i + 4] for i in range(0, len(values), 4)] if values.ndim > 2 else [values]
    # Blosc shuffles by the size of the items it is given.
    raw = [np.ascontiguousarray(c).reshape(-1) for c in chunks]
    size = sum(r.nbytes for r in raw)
    table: dict[str, Mapping[str, float]] = {}
    for name, given in CODECS.items():
        codecs = [Shuffle(values.itemsize) if c == "shuffle" else c for c in given]
        encoded = [_encode(codecs, r) for r in raw]
        sides = {
            "encode": partial(_pass, partial(_encode, codecs), raw, size),
            "decode": partial(_pass, partial(_decode, codecs), encoded, size),
        }
        rates = alternate(sides, rounds, advance=advance)
        stored = sum(memoryview(e).nbytes for e in encoded)
        table[name] = {
            "ratio": round(size / stored, 3),
            **{k: round(rate.median / 1e6, 1) for k, rate in rates.items()},
        }
    return table


def _pass(work: Callable[[Any], Any], chunks: list[Any], nbytes: int) -> int:
    """Do the work on every chunk; returns the number of raw bytes."""
    for chunk in chunks:
        work(chunk)
    return nbytes


def _encode(codecs: list[Any], data: Any) -> Any:
    for codec in codecs:
        data = codec.encode(data)
    return data


def _decode(codecs: list[Any], data: Any) -> Any:
    for codec in reversed(codecs):
        data = codec.decode(data)
    return data
