"""Invariant: a request and a source determine every byte of a cache."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from c2s_cache import ConfigError, DataError, Manifest, TeacherInfo
from c2s_cache.augment import AugmentConfig
from c2s_pipeline.kmeans import BackendName
from c2s_pipeline.masks import MaskConfig, check_windows
from c2s_pipeline.regions import RegionConfig
from c2s_pipeline.source import ImageSource, SplitInfo
from c2s_pipeline.teachers.base import Precision
from c2s_pipeline.teachers.dense import DenseFeatures
from c2s_pipeline.teachers.imported_text import load_embeddings
from c2s_pipeline.teachers.templates import template_set


class BuildRequest(BaseModel):
    """Everything a user decides about a cache, apart from the data set and where it goes.

    `dense_size` is the input side of the dense pass in pixels (default: the teacher's native size);
    `dense_features` says which tokens are clustered. `views` is how many views there are per image: 1 is
    the canonical one, more are drawn at random as `augment` says; `view_size` is the side at which
    students see a view. `block_rows` rows make a block; `limit` takes only the first so many images of the
    shuffled split. The class embeddings are those of `prompts` (default: the class names) in the template
    set `templates` (a name, or sentences with one `{}` each), or come from the file `text_embeddings`, whose
    rows a trained teacher must take for their classes unless `check_text` is off.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    teacher: str = "ViT-B-16"
    pretrained: str | None = None
    dense_size: int | None = Field(default=None, ge=1, le=8192)
    dense_features: DenseFeatures = "plain"
    precision: Precision = "float32"
    views: int = Field(default=1, ge=1, le=1000)
    augment: AugmentConfig = AugmentConfig()
    view_size: int = Field(default=512, ge=8, le=8192)
    dense: Literal["none", "int8", "float16"] = "none"
    masks: MaskConfig = MaskConfig()
    regions: RegionConfig = RegionConfig()
    backend: BackendName = "torch"
    prompts: tuple[str, ...] | None = None
    templates: str | tuple[str, ...] = "single"
    text_embeddings: Path | None = None
    check_text: bool = True
    block_rows: int = Field(default=128, ge=1, le=65536)
    batch_size: int = Field(default=32, ge=1, le=8192)
    seed: int = Field(default=0, ge=0, lt=2**32)
    limit: int | None = Field(default=None, ge=1)


def row_order(source: ImageSource, request: BuildRequest) -> list[str]:
    """Image ids in row order: shuffled once at write, so that block reads give mixed batches.

    Raises:
        DataError: the split is empty.
    """
    ids = list(source.ids)
    if not ids:
        raise DataError(f"data set {source.name} has no images in split {source.split!r}.")
    shuffled = [ids[i] for i in np.random.default_rng(request.seed).permutation(len(ids))]
    return shuffled[: request.limit]


def make_manifest(
    source: SplitInfo,
    request: BuildRequest,
    order: Sequence[str],
    teacher: TeacherInfo,
) -> Manifest:
    """Describe the cache that this request makes of this source, its images in the given order.

    Raises:
        ConfigError: windows that do not fit the teacher's grid, an unknown template set, or a value that
            has no effect beside another.
    """
    _check_effects(request)
    check_windows(request.masks, teacher.grid)
    order_digest = hashlib.sha256("\n".join(order).encode()).hexdigest()
    requests: dict[str, dict[str, Any]] = {
        "images": {
            "source": source.identity(),
            "order": order_digest,
            "seed": request.seed,
            "block_rows": request.block_rows,
        },
        "labels": {"unseen": list(source.unseen), "classes": len(source.classes)},
        "views": _views_request(request, teacher),
        "teacher": {
            **teacher.model_dump(mode="json"),
            "precision": request.precision,
            "batch_size": request.batch_size,
        },
        "masks": {**request.masks.model_dump(mode="json"), "backend": request.backend},
        "regions": request.regions.model_dump(mode="json"),
        "text": _text_request(source, request, teacher),
    }
    if request.dense != "none":
        requests["dense"] = {"tier": request.dense}
    return Manifest(
        dataset=source.name,
        split=source.split,
        classes=tuple(source.classes),
        unseen=tuple(source.unseen),
        rows=len(order),
        block_rows=request.block_rows,
        views=request.views,
        view_size=request.view_size,
        dense=request.dense,
        teacher=teacher,
        requests=requests,
    )


def _check_effects(request: BuildRequest) -> None:
    if request.views == 1 and request.augment != AugmentConfig():
        raise ConfigError(
            "augment has no effect on a single view, which is the canonical one.",
            "Ask for more with --views.",
        )
    if request.text_embeddings is not None:
        for key, given in (
            ("templates", request.templates != "single"),
            ("prompts", request.prompts is not None),
        ):
            if given:
                raise ConfigError(f"text_embeddings and {key} exclude each other.")
    if request.templates == ():
        raise ConfigError("templates: expected at least one sentence.")


def _text_request(source: SplitInfo, request: BuildRequest, teacher: TeacherInfo) -> dict[str, Any]:
    """Everything that determines the class embeddings."""
    classes = list(source.classes)
    if request.text_embeddings is not None:
        rows = load_embeddings(request.text_embeddings, classes, teacher.dim)
        return {"names": classes, "imported": hashlib.sha256(rows.tobytes()).hexdigest()}
    if not request.check_text:
        raise ConfigError("text that no file of embeddings brings cannot go unchecked.")
    names = list(request.prompts or classes)
    if len(names) != len(classes):
        raise ConfigError(f"prompts has {len(names)} names for the {len(classes)} classes.")
    chosen = request.templates
    sentences = template_set(chosen) if isinstance(chosen, str) else chosen
    return {"names": names, "templates": list(sentences), "digest": teacher.text_digest}


def _views_request(request: BuildRequest, teacher: TeacherInfo) -> dict[str, Any]:
    """Everything that, with the label maps, determines the geometry of the views."""
    if request.views == 1:
        return {"count": 1, "policy": "canonical", "size": teacher.image_size}
    return {
        "count": request.views,
        "policy": "augmented",
        "size": request.view_size,
        "seed": request.seed,
        "augment": request.augment.model_dump(mode="json"),
    }
