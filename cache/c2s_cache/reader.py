"""Invariant: only a complete cache is opened for training, and it is read a block at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from pydantic import ValidationError
from zarr.core.sync import sync

from c2s_cache.block import Block
from c2s_cache.errors import CacheError
from c2s_cache.folder import Folder
from c2s_cache.manifest import FORMAT, Manifest
from c2s_cache.receipt import METADATA, Receipt, parse, receipt_path
from c2s_cache.schema import RAGGED, open_arrays, ragged_ranges

TRAINING = (
    *("images/data", "images/size", "images/usable", "labels/data", "views/box", "views/flip"),
    *("teacher/global_cls", "masks/grid", "regions/cls", "regions/id", "regions/area"),
)
"""The arrays that training reads."""
TRANSDUCTIVE = (*TRAINING, "labels/ignored")
"""Those of a self-training: `labels/ignored` tells pixels of unseen classes from pixels of none, which
inductive training must not know."""
DECODER = "zarrs.ZarrsCodecPipeline"
"""What training reads with: the same values, in half the time of Zarr's own. Writing stays with Zarr's,
whose compressed bytes a rebuild must repeat."""


@dataclass(frozen=True)
class TextEmbeddings:
    """Unit-norm text embeddings: `class_ids` int64 [n], `names`, `embeddings` float32 [n, D]."""

    class_ids: NDArray[np.int64]
    names: tuple[str, ...]
    embeddings: NDArray[np.float32]


class Cache:
    """A cache, opened for reading.

    Args:
        path: cache directory, or the URL of one; see `Folder`.

    Raises:
        CacheError: no cache of this format at `path`. Completeness is checked by `open_cache`.
    """

    def __init__(self, path: Path | str) -> None:
        self.folder = Folder(path)
        self.manifest = read_manifest(path)
        self._group = open_arrays(self.folder.local or self.address)
        self._opened: dict[tuple[str, str | None], zarr.Array[Any]] = {}

    @property
    def address(self) -> str:
        """Where it lies: the path or URL that it was opened by."""
        return self.folder.address

    @property
    def path(self) -> Path:
        """The cache directory.

        Raises:
            CacheError: the cache lies in an object store.
        """
        if self.folder.local is None:
            raise CacheError(f"{self.address} is not on this machine.", "Copy it here first.")
        return self.folder.local

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return self.manifest.blocks

    @cached_property
    def receipts(self) -> dict[tuple[str, int], Receipt]:
        """Receipts that are there, by (stage, block)."""
        wanted = [(METADATA, 0)]
        wanted += [(s, b) for b in range(self.blocks) for s in self.manifest.stages_of(b)]
        names = {receipt_path(Path(), *key).as_posix(): key for key in wanted}
        found = self.folder.read_all(names)
        return {key: parse(found[n], f"{self}/{n}", *key) for n, key in names.items() if n in found}

    def __str__(self) -> str:
        return self.address

    @property
    def quarantine(self) -> list[dict[str, Any]]:
        """Unreadable images: dicts with `row`, `id` and `reason`."""
        lists = (self.receipts.get(("images", b)) for b in range(self.blocks))
        return [entry for r in lists if r is not None for entry in r.notes.get("quarantined", [])]

    @property
    def dense_error(self) -> dict[str, float] | None:
        """Error card of the dense tier over the finished blocks: `cosine_mean` and `cosine_min` of
        stored to float32 tokens, and `cluster_agreement`, the share of tokens that K-means from the
        stored tier puts into the same cluster. None without a tier."""
        found = [
            r.notes["error"] for (s, _), r in self.receipts.items() if s == "dense" and r.notes
        ]
        tokens = sum(e["tokens"] for e in found)
        if not tokens:
            return None
        return {
            "cosine_mean": sum(e["cosine_sum"] for e in found) / tokens,
            "cosine_min": min(e["cosine_min"] for e in found),
            "cluster_agreement": sum(e["agreeing"] for e in found) / tokens,
        }

    def array(self, path: str) -> zarr.Array[Any]:
        """The Zarr array at `path`, for tools that look at more than training does."""
        array = self._group[path]
        if not isinstance(array, zarr.Array):
            raise CacheError(f"{self}/{path} is not an array.")
        return array

    def ids(self, block: int) -> list[str]:
        """Image ids of all rows of a block, quarantined ones included."""
        stored = self.read(block, ["images/id_data"])
        ranges = ragged_ranges(stored["images/id_end"])
        return [stored["images/id_data"][a:b].tobytes().decode() for a, b in ranges]

    def text(self, which: Literal["seen", "unseen", "all"] = "seen") -> TextEmbeddings:
        """Class text embeddings; inductive training asks for the seen ones and gets no others."""
        m = self.manifest
        members = {"seen": m.seen, "unseen": sorted(m.unseen), "all": range(len(m.classes))}
        ids = np.asarray(members[which], dtype=np.int64)
        embeddings = np.asarray(self.array("text/embeddings")[:])[ids]
        return TextEmbeddings(ids, tuple(m.classes[i] for i in ids), embeddings)

    def read(self, block: int, paths: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Read the given arrays of a block, one contiguous read each, all of them at once.

        Args:
            block: block number; the stages of the arrays must be there.
            paths: array paths.

        Returns:
            Path -> values: [rows of the block, ...], ragged arrays [items of all its rows, ...], and
            the `end` column of each ragged array.

        Raises:
            CacheError: an array cannot be decoded; every chunk carries a checksum.
        """
        return self._read_block(block, paths, None)

    def _read_block(
        self, block: int, paths: Iterable[str], decoder: str | None
    ) -> dict[str, NDArray[Any]]:
        rows = self.manifest.block_range(block)
        paths = set(paths)
        ends = {p: RAGGED[p] for p in paths if p in RAGGED}
        columns = (paths - ends.keys()) | set(ends.values())
        try:
            arrays = self._read({c: slice(rows.start, rows.stop) for c in columns}, decoder)
            stops = {path: int(arrays[end].reshape(-1)[-1]) for path, end in ends.items()}
            items = {path: (block, slice(0, stop)) for path, stop in stops.items()}
            return arrays | self._read(items, decoder)
        except (ValueError, RuntimeError, OSError) as error:
            raise CacheError(
                f"block {block} of {self} cannot be read: {error}",
                f"See what is damaged with: c2s cache verify {self} --quick",
            ) from error

    def _read(self, parts: Mapping[str, Any], decoder: str | None) -> dict[str, NDArray[Any]]:
        """Selections of arrays by path. Their requests go out together: a store far away is waited for
        once, and a disk is read with half the overhead of one array after the other."""

        arrays = [self._reading(path, decoder).async_array for path in parts]

        async def together() -> list[Any]:
            wanted = (a.getitem(part) for a, part in zip(arrays, parts.values(), strict=True))
            return await asyncio.gather(*wanted)

        found: list[Any] = sync(together())
        return {path: np.asarray(values) for path, values in zip(parts, found, strict=True)}

    def _reading(self, path: str, decoder: str | None) -> zarr.Array[Any]:
        """The array at `path`, opened once; with Zarr's own decoder if None."""
        if (path, decoder) not in self._opened:
            # Zarr's setting is that of the whole process: it must not be touched where others write.
            chosen = {"codec_pipeline.path": decoder}
            with zarr.config.set(chosen) if decoder else nullcontext():
                self._opened[path, decoder] = self.array(path)
        return self._opened[path, decoder]

    def read_block(self, block: int, transductive: bool = False) -> Block:
        """Read what training needs of a block.

        Args:
            block: block number.
            transductive: which pixels the data set itself ignores, too. Only for a self-training.

        Raises:
            CacheError: it cannot be decoded.
        """
        decoder = None if self.folder.local is None else DECODER  # zarrs reads from disks
        arrays = self._read_block(block, TRANSDUCTIVE if transductive else TRAINING, decoder)
        start = self.manifest.block_range(block).start
        usable = start + np.flatnonzero(arrays["images/usable"])
        return Block(usable.astype(np.int64), arrays, start)


def open_cache(path: Path | str) -> Cache:
    """Open a cache for training: complete, of this format, manifest unchanged, every file at its size.

    Raises:
        CacheError: the cache is missing, unfinished or damaged; the message says how to finish it.
    """
    cache = Cache(path)
    m, prints = cache.manifest, cache.manifest.fingerprints
    expected = sum(len(m.stages_of(b)) for b in range(m.blocks))
    found = sum(stage != METADATA for stage, _ in cache.receipts)
    if len(cache.receipts) < expected + 1:
        raise CacheError(
            f"{path} is incomplete: {found} of {expected} block stages are written.",
            "Finish it by running the same c2s cache build again.",
        )
    sizes = cache.folder.sizes()
    for (stage, block), receipt in cache.receipts.items():
        if stage != METADATA and receipt.fingerprint != prints[stage]:
            raise CacheError(
                f"{path}: stage {stage} of block {block} was written for another request.",
                "Build the cache anew with another --out.",
            )
        for name, record in receipt.files.items():
            if sizes.get(name) != record.size:
                raise CacheError(
                    f"{cache}/{name} is missing or has the wrong size (expected {record.size} bytes).",
                    f"Inspect with: c2s cache verify {path} --quick",
                )
    for name, record in cache.receipts[METADATA, 0].files.items():
        if cache.folder.digest(name) != record.sha256:
            raise CacheError(
                f"{cache}/{name} has changed since the cache was created.",
                f"Inspect with: c2s cache verify {path} --quick",
            )
    return cache


def read_manifest(path: Path | str) -> Manifest:
    """Read a cache's manifest from the root group's attribute `c2s`; `path` may be a URL.

    Raises:
        CacheError: there is none, or it is of another format.
    """
    try:
        attributes = json.loads(Folder(path).read("zarr.json"))["attributes"]["c2s"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CacheError(
            f"{path} is not a c2s cache (no manifest in zarr.json).",
            "Build one with: c2s cache build --dataset NAME",
        ) from error
    if attributes.get("format") != FORMAT:
        raise CacheError(
            f"{path} has cache format {attributes.get('format')!r}; this version reads {FORMAT}.",
            "Use the c2s version that wrote it, or remove it and build it anew: c2s cache build.",
        )
    try:
        return Manifest.model_validate(attributes)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        raise CacheError(
            f"{path}: the manifest is damaged at {where or 'its root'}: {first['msg']}."
        ) from error
