"""Invariant: a teacher that is loaded again is the one that wrote the cache, by the digest of its weights."""

from __future__ import annotations

import torch

from c2s_cache import C2SError, CacheError, Manifest, TeacherInfo
from c2s_pipeline.clip_model import TeacherSpec
from c2s_pipeline.clip_names import Activation, default_pretrained, named_activation, own_weights
from c2s_pipeline.request import BuildRequest
from c2s_pipeline.teacher import Teacher


def recorded_spec(
    manifest: Manifest, teacher: str | None = None, pretrained: str | None = None
) -> TeacherSpec:
    """How to load the teacher that wrote a cache.

    Args:
        manifest: of the cache. It holds no paths: a local folder or checkpoint is known by its name.
        teacher: model name or local-dir to load it from instead.
        pretrained: weight tag or checkpoint file to load it from instead.
    """
    info, name = manifest.teacher, teacher or manifest.teacher.name
    weights = info.pretrained if teacher is None and not own_weights(name) else None
    return TeacherSpec(
        name,
        pretrained or weights or default_pretrained(name),
        info.dense_size,
        info.dense_features,  # type: ignore[arg-type]
        manifest.requests["teacher"]["precision"],
        recorded_activation(info),
    )


def recorded_activation(info: TeacherInfo) -> Activation | None:
    """The activation of the teacher that wrote a cache. Caches of earlier versions leave it to the name;
    of a folder they do not tell (None)."""
    if info.activation is not None or own_weights(info.name):
        return info.activation  # type: ignore[return-value]
    return named_activation(info.name, info.pretrained)


def load_recorded(
    manifest: Manifest,
    spec: TeacherSpec,
    hint: str = "",
    device: str | None = None,
    options: str = "--pretrained FILE or --teacher local-dir:FOLDER",
) -> Teacher:
    """Load the teacher that wrote a cache.

    Args:
        manifest: of the cache.
        spec: from `recorded_spec`.
        hint: another way out, for the message.
        device: torch device; default: a GPU if there is one.
        options: of the command, that name the weights.

    Raises:
        C2SError: it cannot be found; the message says how to name its weights.
        CacheError: the weights that were found are others, or the model computes another activation.
    """
    info = manifest.teacher
    wrote = f"the teacher that wrote the cache ({info.name}, {info.pretrained or 'own weights'})"
    named = f"Name its weights with {options}. {hint}".strip()
    try:
        teacher = Teacher(spec, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except C2SError as error:
        raise C2SError(f"{wrote} cannot be loaded: {error.what}", named) from error
    found, here = teacher.info(), f"{spec.name}, {spec.pretrained or 'own weights'}"
    if found.digest != info.digest:
        raise CacheError(
            f"{wrote} has weights {info.digest[:12]}, those found as {here} are {found.digest[:12]}.",
            named,
        )
    if (computed := recorded_activation(info)) not in (None, found.activation):
        raise CacheError(
            f"{wrote} computes {computed}, the one found as {here} {found.activation}.", named
        )
    return teacher


def recorded_request(manifest: Manifest) -> BuildRequest:
    """The request that made a cache, as far as the manifest tells: imported class embeddings are lost."""
    images, masks = dict(manifest.requests["images"]), dict(manifest.requests["masks"])
    taught, text = manifest.requests["teacher"], manifest.requests["text"]
    given, views = recorded_spec(manifest), manifest.requests["views"]
    augment = {"augment": views["augment"]} if "augment" in views else {}
    return BuildRequest.model_validate(
        {
            **augment,
            "teacher": given.name,
            "pretrained": given.pretrained,
            "dense_size": given.dense_size,
            "dense_features": given.dense_features,
            "precision": given.precision,
            "views": manifest.views,
            "view_size": manifest.view_size,
            "dense": manifest.dense,
            "backend": masks.pop("backend"),
            "masks": masks,
            "regions": manifest.requests["regions"],
            "prompts": text["names"],
            "templates": text.get("templates", "single"),
            "block_rows": images["block_rows"],
            "seed": images["seed"],
            "limit": manifest.rows,
            "batch_size": taught["batch_size"],
        }
    )
