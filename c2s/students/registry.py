"""Invariant: name, width and what the student says of itself create it, so a run folder opens anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from c2s_cache.errors import C2SError, ConfigError
from c2s_cache.plugins import CODE

if TYPE_CHECKING:
    from c2s.students.base import Student

NAMES = (
    *(f"segnext-{size}" for size in "tsbl"),
    "setr-b",
    "vit-b",
    *(f"segformer-b{n}" for n in range(6)),
    "shapes-net",
    "prompted-clip",
    "mask2former:shapes",
    "zeroseg-b",
    "zeroseg-shapes",
)

GROUP = "c2s.students"
"""Entry points of installed packages: functions or classes that make a student of D, as for `python:`."""


class CodeError(C2SError):
    """A file names code to call, and nobody has allowed it."""


def require_no_code(
    name: str, source: object, allow_code: bool = False, what: str = "student"
) -> None:
    """Refuse a student's or method's name, read from a file, that would have code imported and called.

    Args:
        name: of the student or method.
        source: the file or folder that gives it, for the message.
        allow_code: whoever opens it trusts it.
        what: it is.

    Raises:
        CodeError: a `python:` name, not allowed.
    """
    if name.startswith(CODE) and not allow_code:
        module = name.split(":")[1]
        raise CodeError(
            f"{source} has the {what} {name}: opening it imports the module {module} and calls it, which no "
            "file may do by itself.",
            "If you trust both, allow it: --allow-code (in Python: allow_code=True).",
        )


def names() -> tuple[str, ...]:
    """Names of all students: c2s's own and those of installed packages."""
    return tuple(dict.fromkeys([*NAMES, *sorted(e.name for e in entry_points(group=GROUP))]))


def create(
    name: str,
    dim: int,
    weights: str | None = None,
    architecture: Mapping[str, Any] | None = None,
) -> Student:
    """A student by name; its module is imported only now.

    Args:
        name: one of `names`, or a model of another library: one of `LIBRARY_STUDENTS`.
        dim: D, width of the features.
        weights: pretrained weights of the backbone, as the student's class documents; "random" for
            none; None for the default (the shipped ones for shapes-net and mask2former:shapes, random for all
            others).
        architecture: `architecture` of an earlier student of that name, if it had one.

    Raises:
        ConfigError: unknown name, or the weights do not fit.
    """
    for entry in entry_points(group=GROUP, name=name):
        name = f"{CODE}{entry.value}"
    if ":" in name and name not in NAMES:
        from c2s.students.adapters import create_adapted

        given = None if weights == "random" else weights
        return create_adapted(name, dim, given, architecture)
    if name not in NAMES:
        raise ConfigError(f"There is no student {name!r}; choose one of {', '.join(names())}.")
    if name == "shapes-net":
        from c2s.students.shapes_net import ShapesNet

        return ShapesNet(dim, weights)
    if name == "prompted-clip":
        from c2s.students.prompted_clip import PromptedCLIP

        if weights not in (None, "random"):
            raise ConfigError(
                f"prompted-clip takes its tower from the cache, so --weights {weights} cannot act.",
                "Leave --weights out.",
            )
        return PromptedCLIP(dim, architecture)
    if name == "mask2former:shapes":
        from c2s.students.mask2former import ShapesMask2Former

        return ShapesMask2Former(dim, weights)
    pretrained = None if weights == "random" else weights
    if name.startswith("zeroseg-"):
        from c2s.students.mae_grouping import MAEGroupingStudent

        return MAEGroupingStudent(name, dim, pretrained, architecture)
    family, _, size = name.partition("-")
    if family == "segnext":
        from c2s.students.segnext import SegNeXt

        return SegNeXt(size, dim, pretrained)
    if family == "segformer":
        from c2s.students.segformer import SegFormer

        return SegFormer(size, dim, pretrained)
    from c2s.students.vit import SETR, ViT

    return SETR(dim, pretrained) if family == "setr" else ViT(dim, pretrained)
