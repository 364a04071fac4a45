"""Invariant: a teacher that is loaded again is the one that wrote the cache, by the digest of its weights."""

from __future__ import annotations

from c2s_cache import C2SError, CacheError, Manifest, TeacherInfo
from c2s_pipeline.devices import default_device
from c2s_pipeline.teachers.base import Teacher, TeacherSpec
from c2s_pipeline.teachers.clip_names import (
    Activation,
    default_pretrained,
    named_activation,
    own_weights,
)
from c2s_pipeline.teachers.registry import load_teacher


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
        teacher = load_teacher(spec, device or default_device())
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
