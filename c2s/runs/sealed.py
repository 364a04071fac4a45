"""Invariant: a JSON object of a run is taken for what was written only while it is just that."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from c2s_cache.fingerprint import canonical_json, digest
from c2s_cache.receipt import write_atomic

SEAL = "digest"
"""Key of the SHA-256 of all the others."""


def write_sealed(file: Path, facts: Mapping[str, Any]) -> None:
    """Write a JSON object with a digest of all that it says, whole and durable.

    Raises:
        OSError: it cannot be written.
    """
    plain = json.loads(json.dumps(facts))  # tuples are lists by now; json's floats are exact
    whole = {**plain, SEAL: digest(canonical_json(plain))}
    write_atomic(file, (json.dumps(whole, indent=2) + "\n").encode())


def read_sealed(file: Path) -> dict[str, Any]:
    """What `write_sealed` was given, as JSON values.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, or was edited.
    """
    if not file.is_file():  # a pipe would never end
        raise FileNotFoundError(errno.ENOENT, "no such file", str(file))
    try:
        facts = json.loads(file.read_bytes())
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if not isinstance(facts, dict):
        raise ValueError("it is no object")
    if facts.pop(SEAL, None) != digest(canonical_json(facts)):
        raise ValueError("it is not as it was written")
    return facts
