"""Invariant: a cache of another format, or whose manifest is damaged, is refused with the next command."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from c2s_cache.errors import CacheError
from c2s_cache.folder import Folder
from c2s_cache.manifest import FORMAT, Manifest


def read_manifest(path: Path | str) -> Manifest:
    """Read a cache's manifest from the root group's attribute `c2s`; `path` may be a URL.

    Raises:
        CacheError: there is none, or it is of another format.
    """
    return parse_manifest(read_root(Folder(path)), path)


def read_root(folder: Folder) -> bytes:
    """The bytes of the root group's `zarr.json`; none if there is none."""
    try:
        return folder.read("zarr.json")
    except FileNotFoundError:
        return b""


def parse_manifest(root: bytes, path: Path | str) -> Manifest:
    """The manifest in the bytes of the root group's `zarr.json`.

    Raises:
        CacheError: there is none, or it is of another format.
    """
    try:
        attributes = json.loads(root)["attributes"]["c2s"]
        version = attributes.get("format")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        local = "://" not in str(path)
        if local and (Path(path) / "receipts/metadata").is_dir():
            raise CacheError(
                f"{path} is a damaged cache: its zarr.json holds no manifest.",
                "Copy that file from another copy of the cache, or build it anew with another --out.",
            ) from error
        reason = (
            "nothing is there" if local and not Path(path).exists() else "no manifest in zarr.json"
        )
        raise CacheError(
            f"{path} is not a c2s cache ({reason}).",
            "Build one with: c2s cache build --dataset NAME",
        ) from error
    if version != FORMAT:
        name = attributes.get("dataset")
        dataset = name if isinstance(name, str) else "NAME"
        raise CacheError(
            f"{path} has cache format {repr(version)[:40]}; this version reads {FORMAT}.",
            f"Remove it and build it anew: c2s cache build --dataset {dataset} --out {path}",
        )
    try:
        return Manifest.model_validate(attributes)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        raise CacheError(
            f"{path}: the manifest is damaged at {where or 'its root'}: {first['msg']}."
        ) from error
