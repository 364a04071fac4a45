"""Invariant: what builds say of themselves decides nothing; a line that cannot be read is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from c2s_cache.folder import Folder

PROVENANCE = "provenance.jsonl"


def read_provenance(path: Path | str) -> list[dict[str, Any]]:
    """What each command that computed something for a cache said of itself, in their order; see SPEC.

    Args:
        path: of the cache, or its URL.
    """
    try:
        lines = Folder(path).read(PROVENANCE).decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []
    entries = []
    for line in lines:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries


def weights_location(path: Path | str) -> str | None:
    """Where the last build of a cache had the teacher's weights, as `--teacher-weights` names it; None: it does not
    say, or the teacher's name does."""
    found = [e["teacher_weights"] for e in read_provenance(path) if "teacher_weights" in e]
    return found[-1] if found and isinstance(found[-1], str) else None
