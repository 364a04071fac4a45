"""Invariant: equal fingerprints mean equal bytes; anything that determines bytes is in the hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def canonical_json(value: Any) -> bytes:
    """Serialise JSON-like data with sorted keys and no white space, so that equal data are equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(data: bytes) -> str:
    """Hex SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stage_fingerprint(content: Mapping[str, Any]) -> str:
    """Hash of all that determines a stage's bytes."""
    return digest(canonical_json(dict(content)))


def difference(have: Any, want: Any, path: str = "") -> list[str]:
    """List every leaf in which two JSON-like values differ, as `path: have -> want`."""
    if isinstance(have, dict) and isinstance(want, dict):
        lines: list[str] = []
        for key in sorted(have.keys() | want.keys()):
            inner = f"{path}.{key}" if path else str(key)
            lines += difference(have.get(key), want.get(key), inner)
        return lines
    if have == want:
        return []
    return [f"{path}: {_short(have)} -> {_short(want)}"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"
