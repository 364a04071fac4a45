"""Invariant: a teacher that is loaded again is the one that wrote the cache, by the digest of its weights."""

from __future__ import annotations

from dataclasses import replace

from c2s_cache import C2SError, CacheError, ConfigError, Manifest, MissingExtra, TeacherInfo
from c2s_cache.plugins import CODE
from c2s_pipeline.devices import default_device
from c2s_pipeline.teachers.base import Teacher, TeacherSpec, TextEncoder
from c2s_pipeline.teachers.clip_names import own_weights
from c2s_pipeline.teachers.registry import load_teacher, load_text_encoder

FILE_OR_FOLDER = "--teacher-weights FILE (or local-dir:FOLDER)"
"""The option of commands that have a single one to name weights."""


def recorded_spec(
    manifest: Manifest,
    teacher: str | None = None,
    pretrained: str | None = None,
    mask_teacher: str | None = None,
) -> TeacherSpec:
    """How to load the teacher that wrote a cache.

    Args:
        manifest: of the cache. It holds no paths: a local folder or checkpoint is known by its name.
        teacher: model name or local-dir to load it from instead.
        pretrained: weight tag or checkpoint file to load it from instead.
        mask_teacher: the same of the one that gives the dense features, as one option names it.

    Raises:
        C2SError: it is code, which the user does not name; or a mask teacher is named and the cache has none.
    """
    info = manifest.teacher
    spec = _spec(info, teacher, pretrained, info.precision)
    if info.mask_teacher is None:
        if mask_teacher is not None:
            raise ConfigError(
                f"the cache has no mask teacher, so --mask-teacher {mask_teacher} cannot act."
            )
        return spec
    masks = _spec(info.mask_teacher, *named_weights(mask_teacher), info.precision)
    return replace(spec, mask_teacher=masks)


def named_weights(option: str | None) -> tuple[str | None, str | None]:
    """`teacher` and `pretrained` that one option names: whole models by their prefix, all else is a file or tag."""
    if option is not None and option.startswith((CODE, "local-dir:", "hf-hub:", "hf:")):
        return option, None
    return None, option


def recorded_weights(info: TeacherInfo) -> str | None:
    """Tag or name of the weights of a recorded teacher, which a folder does not have beside its own."""
    return None if own_weights(info.name) else info.pretrained


def require_named(info: TeacherInfo, named: str | None) -> None:
    """Refuse code that only a file names.

    Raises:
        C2SError: the recorded teacher is code, and the user names no teacher.
    """
    if named is None and info.name.startswith(CODE):
        raise C2SError(
            f"the teacher is code, {info.name}, which is not imported because a file says so.",
            "If you trust it, name it yourself.",
        )


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
    wrote = f"the teacher that wrote the cache ({_called(info)})"
    named = f"Name its weights with {options}. {hint}".strip()
    try:
        teacher = load_teacher(spec, device or default_device())
    except MissingExtra:
        raise
    except C2SError as error:
        raise C2SError(f"{wrote} cannot be loaded: {error.what}", named) from error
    _require_same(wrote, spec, info.digest, teacher.info().digest, named)
    return teacher


def load_recorded_text(
    info: TeacherInfo, weights: str | None = None, device: str = "cpu"
) -> TextEncoder:
    """Load the text tower of the teacher that a run learnt from, alone.

    Args:
        info: what the run recorded of it.
        weights: where it is now, as the option `--teacher-weights` names it; None: where its name says.
        device: torch device.

    Raises:
        C2SError: it cannot be found; the message says how to name its weights.
        CacheError: the weights that were found are others, or the model computes another activation.
    """
    teacher = f"the teacher of the run ({_called(info)})"
    if info.text_digest is None:
        raise C2SError(f"{teacher} has no text tower.", "Take names that the run knows.")
    named = f"Name its weights with {FILE_OR_FOLDER}."
    try:
        spec = _spec(info, *named_weights(weights))
        encoder = load_text_encoder(spec, device)
    except MissingExtra:
        raise
    except C2SError as error:
        raise C2SError(f"{teacher} cannot be loaded: {error.what}", named) from error
    _require_same(f"the text tower of {teacher}", spec, info.text_digest, encoder.digest, named)
    return encoder


def _spec(
    info: TeacherInfo,
    teacher: str | None = None,
    pretrained: str | None = None,
    precision: str = "float32",
) -> TeacherSpec:
    name = teacher or info.name
    require_named(info, teacher)
    if own_weights(name) and pretrained is not None:
        raise C2SError(
            f"{name} comes as a whole, so {pretrained} cannot stand for its weights; name it as "
            "local-dir:FOLDER."
        )
    weights = recorded_weights(info) if name == info.name else None
    return TeacherSpec(
        name,
        pretrained or weights,
        info.dense_size,
        info.dense_features,  # type: ignore[arg-type]
        precision,  # type: ignore[arg-type]
        info.activation,  # type: ignore[arg-type]
    )


def _require_same(what: str, spec: TeacherSpec, recorded: str, found: str, hint: str) -> None:
    if found != recorded:
        raise CacheError(
            f"{what} has the digest {recorded[:12]}, what was found as {spec.name}, "
            f"{spec.pretrained or 'own weights'}, has {found[:12]}: other weights, or another activation.",
            hint,
        )


def _called(info: TeacherInfo) -> str:
    called = f"{info.name}, {info.pretrained or 'own weights'}"
    masks = info.mask_teacher
    return called if masks is None else f"{called}; masks by {_called(masks)}"
