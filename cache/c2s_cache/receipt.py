"""Invariant: a block's stage exists if and only if its receipt does, and the receipt names every byte."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from c2s_cache.errors import CacheError
from c2s_cache.fingerprint import canonical_json, digest


class FileRecord(NamedTuple):
    """Size in bytes and hex SHA-256 of one shard file."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """Proof that one stage of one block was written and read back whole.

    `files` maps paths relative to the cache to their records; `notes` are stage facts that are a
    pure function of the inputs, such as the list of quarantined rows.
    """

    stage: str
    block: int
    fingerprint: str
    files: dict[str, FileRecord]
    notes: dict[str, Any] = field(default_factory=dict)


_HEAD = b'{"receipt":'


def _tail(body: bytes) -> bytes:
    """What follows the canonical JSON of a receipt in its file (SPEC 5.1)."""
    return b',"sha256":"%s"}' % digest(body).encode()


_TAIL_BYTES = len(_tail(b""))
METADATA = "metadata"
"""Stage name of the receipt that covers the Zarr metadata files, manifest included."""


def receipt_path(root: Path, stage: str, block: int) -> Path:
    """Where the receipt of a block's stage lies."""
    return root / "receipts" / stage / f"{block:06d}.json"


def commit(root: Path, receipt: Receipt) -> None:
    """Store a receipt, with a digest of its own, atomically and durably."""
    path = receipt_path(root, receipt.stage, receipt.block)
    path.parent.mkdir(parents=True, exist_ok=True)
    files = {name: record._asdict() for name, record in receipt.files.items()}
    data = canonical_json(asdict(receipt) | {"files": files})
    write_atomic(path, _HEAD + data + _tail(data))


def retract(root: Path, stage: str, block: int) -> None:
    """Remove a receipt durably, before the first of its files is: no receipt ever outlives its files."""
    path = receipt_path(root, stage, block)
    try:
        path.unlink()
    except FileNotFoundError:
        return
    sync_directory(path.parent)


def load(root: Path, stage: str, block: int) -> Receipt | None:
    """Read a receipt, or None if the stage of that block was never committed.

    Raises:
        CacheError: the file exists but is no receipt of that stage and block.
    """
    path = receipt_path(root, stage, block)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    return parse(data, str(path), stage, block)


def parse(data: bytes, path: str, stage: str, block: int) -> Receipt:
    """The receipt of a block's stage from the bytes of its file.

    Raises:
        CacheError: they are no receipt of that stage and block; `path` names the file.
    """
    body = data[len(_HEAD) : -_TAIL_BYTES]
    try:
        if data != _HEAD + body + _tail(body):
            raise ValueError("its digest differs")
        content = json.loads(body)
        content["files"] = {name: FileRecord(**r) for name, r in content["files"].items()}
        receipt = Receipt(**content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CacheError(
            f"{path} is damaged: not a receipt of format 1.",
            "Delete that file and run the same c2s cache build again.",
        ) from error
    if (receipt.stage, receipt.block) != (stage, block):
        raise CacheError(
            f"{path} is the receipt of stage {receipt.stage}, block {receipt.block}: files were moved.",
            "Delete that file and run the same c2s cache build again.",
        )
    return receipt


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that any reader sees the old content or the new, also after a crash.

    One process at a time writes it; what one that was killed left unfinished, the next one writes over.
    """
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames inside a directory durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
