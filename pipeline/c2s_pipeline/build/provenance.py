"""Invariant: time, host and versions live in this one file, the only one that may differ between builds."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from c2s_cache.provenance import PROVENANCE

PACKAGES = (
    "c2s",
    "torch",
    "open_clip_torch",
    "zarr",
    "numcodecs",
    "numpy",
    "dask",
    "scikit-learn",
    "pillow",
)


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Versions of Python and of those packages that are installed; default: what a build uses."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), **found}


def record(path: Path, **facts: Any) -> None:
    """Append one line about a build run (seconds, rows, workers, device) to `provenance.jsonl`."""
    entry = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "host": platform.node(),
        "processors": os.cpu_count(),
        "versions": versions(),
        **facts,
    }
    with (path / PROVENANCE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
