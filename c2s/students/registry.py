"""Invariant: name, width and what the student says of itself create it, so a run folder opens anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from c2s_cache.errors import C2SError, ConfigError

if TYPE_CHECKING:
    from c2s.students.base import Student

NAMES = (
    *(f"segnext-{size}" for size in "tsbl"),
    "setr-b",
    "vit-b",
    *(f"segformer-b{n}" for n in range(6)),
    "shapes-net",
)


class CodeError(C2SError):
    """A file names code to call, and nobody has allowed it."""


def require_no_code(name: str, source: object, allow_code: bool = False) -> None:
    """Refuse a student's name, read from a file, that would have code imported and called.

    Args:
        name: of the student.
        source: the file or folder that gives it, for the message.
        allow_code: whoever opens it trusts it.

    Raises:
        CodeError: a `python:` student, not allowed.
    """
    if name.startswith("python:") and not allow_code:
        module = name.split(":")[1]
        raise CodeError(
            f"{source} has the student {name}: opening it imports the module {module} and calls it, which no "
            "file may do by itself.",
            "If you trust both, allow it: --allow-code (in Python: allow_code=True).",
        )


def create(
    name: str,
    dim: int,
    weights: str | None = None,
    architecture: Mapping[str, Any] | None = None,
) -> Student:
    """A student by name; its module is imported only now.

    Args:
        name: one of `NAMES`, or a model of another library: one of `LIBRARY_STUDENTS`.
        dim: D, width of the features.
        weights: pretrained weights of the backbone, as the student's class documents; "random" for
            none; None for the default (the shipped ones for shapes-net, random for all others).
        architecture: `architecture` of an earlier student of that name, if it had one.

    Raises:
        ConfigError: unknown name, or the weights do not fit.
    """
    if ":" in name:
        from c2s.students.adapters import create_adapted

        given = None if weights == "random" else weights
        return create_adapted(name, dim, given, architecture)
    if name not in NAMES:
        raise ConfigError(f"There is no student {name!r}; choose one of {', '.join(NAMES)}.")
    if name == "shapes-net":
        from c2s.students.shapes_net import ShapesNet

        return ShapesNet(dim, weights)
    pretrained = None if weights == "random" else weights
    family, _, size = name.partition("-")
    if family == "segnext":
        from c2s.students.segnext import SegNeXt

        return SegNeXt(size, dim, pretrained)
    if family == "segformer":
        from c2s.students.segformer import SegFormer

        return SegFormer(size, dim, pretrained)
    from c2s.students.vit import SETR, ViT

    return SETR(dim, pretrained) if family == "setr" else ViT(dim, pretrained)
