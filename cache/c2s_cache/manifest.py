"""Invariant: the manifest holds only what determines the cache's bytes; time and host live in provenance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from c2s_cache.errors import CacheError
from c2s_cache.fingerprint import stage_fingerprint
from c2s_cache.folder import Folder

FORMAT: Final = 3
STAGES = ("images", "labels", "views", "teacher", "dense", "masks", "regions", "text")
UPSTREAM: dict[str, tuple[str, ...]] = {
    "images": (),
    "labels": ("images",),
    "views": ("images",),
    "teacher": ("views",),
    "dense": ("teacher",),
    "masks": ("teacher", "labels"),
    "regions": ("masks",),
    "text": (),
}
IGNORE = 255
"""Label value of a pixel that is not annotated, and grid value of a cell that has no latent class."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TeacherInfo(_Model):
    """The frozen CLIP model that wrote the cache.

    `tower_digest` and `text_digest` are the SHA-256 over the weights and activation of its image tower and of
    its text tower (None: it has none), `digest` that of both together; `activation` is what the towers
    compute, "gelu" or "quick_gelu" (None: neither is said of it); `grid` the (height, width)
    of its dense token grid; `image_size` its native input side in pixels; `dense_size` the input side
    of the dense pass; `dense_features` which tokens are clustered, with `dense_dim` channels (None: `dim`).
    `mean` and `std` are per RGB channel, in units of pixel / 255.
    """

    name: str
    pretrained: str | None
    digest: str
    tower_digest: str = ""
    text_digest: str | None = None
    activation: str | None = None
    dim: int = Field(gt=0)
    image_size: int = Field(gt=0)
    dense_size: int = Field(gt=0)
    dense_features: str = "plain"
    dense_dim: int | None = Field(default=None, gt=0)
    grid: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Manifest(_Model):
    """What a cache contains and the request of every stage that made it.

    `rows` counts listed images, quarantined ones included; `block_rows` rows form a block, the unit
    of writing, receipts and reading. `requests` maps a stage to the parameters that determine its
    bytes; it names every stage, save `dense` where that tier is "none".
    """

    format: Literal[3] = FORMAT
    dataset: str
    split: str
    classes: tuple[str, ...]
    unseen: tuple[int, ...]
    rows: int = Field(gt=0)
    block_rows: int = Field(gt=0)
    views: int = Field(gt=0)
    view_size: int = Field(gt=0)
    dense: Literal["none", "int8", "float16"]
    teacher: TeacherInfo
    requests: dict[str, dict[str, Any]]

    @model_validator(mode="after")
    def _check(self) -> Manifest:
        if len(self.classes) >= IGNORE:
            raise ValueError(f"label maps are stored as uint8: at most {IGNORE - 1} classes")
        if not all(0 <= c < len(self.classes) for c in self.unseen):
            raise ValueError("an unseen class id lies outside the class list")
        stages = tuple(s for s in STAGES if s != "dense" or self.dense != "none")
        if set(self.requests) != set(stages):
            raise ValueError(f"requests must name the stages {', '.join(stages)}")
        return self

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of this cache, each after those it depends on."""
        return tuple(s for s in STAGES if s in self.requests)

    def stages_of(self, block: int) -> tuple[str, ...]:
        """The stages that a block has: `text` belongs to block 0."""
        return tuple(s for s in self.stages if s != "text" or block == 0)

    @property
    def seen(self) -> tuple[int, ...]:
        """Ids of the classes whose annotations training may use, ascending."""
        hidden = set(self.unseen)
        return tuple(c for c in range(len(self.classes)) if c not in hidden)

    @property
    def blocks(self) -> int:
        """Number of blocks; the last may hold fewer than `block_rows` rows."""
        return -(-self.rows // self.block_rows)

    def upstream(self, stage: str) -> tuple[str, ...]:
        """The stages that a stage depends on; random views are drawn from the label maps, too."""
        drawn = stage == "views" and self.views > 1
        return (*UPSTREAM[stage], "labels") if drawn else UPSTREAM[stage]

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprint of every stage, computed from the requests along the stage graph."""
        prints: dict[str, str] = {}
        for stage in self.stages:
            upstream = {name: prints[name] for name in self.upstream(stage)}
            prints[stage] = stage_fingerprint(stage, self.requests[stage], upstream)
        return prints

    def block_range(self, block: int) -> range:
        """Row numbers of a block."""
        start = block * self.block_rows
        return range(start, min(start + self.block_rows, self.rows))


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
        raise CacheError(
            f"{path} has cache format {repr(version)[:40]}; this version reads {FORMAT}.",
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
