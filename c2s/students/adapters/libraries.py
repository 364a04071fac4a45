"""Which libraries have adapters, and how a student's name leads to one."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from c2s.students.adapters.adapted import adapt
from c2s.students.adapters.library_student import InputSpec
from c2s.students.base import Student
from c2s_cache.errors import ConfigError

LIBRARY_STUDENTS = {
    "smp": "smp:ARCHITECTURE/ENCODER",
    "hf": "hf:FOLDER_OR_HUB_ID",
    "torchvision": "torchvision:MODEL",
    "timm": "timm:ENCODER",
    "mask2former": "mask2former:ENCODER_OF_TIMM",
    "python": "python:MODULE:FACTORY",
}
"""Names of students of other libraries, by prefix."""


def create_adapted(
    name: str, dim: int, weights: str | None, architecture: Mapping[str, Any] | None
) -> Student:
    """A student of another library by name.

    Args:
        name: of one of `LIBRARY_STUDENTS`; `build` in the module of that prefix says what there is.
        dim: D.
        weights: as `build` says; None: random.
        architecture: as an earlier student of that name says (`Student.architecture`).

    Raises:
        ConfigError: no such library or model, or it cannot be adapted, or the weights do not fit.
        MissingExtra: the library is not installed.
    """
    library, _, rest = name.partition(":")
    if library not in LIBRARY_STUDENTS or not rest:
        raise ConfigError(
            f"There is no student {name!r}; write one of {', '.join(LIBRARY_STUDENTS.values())}."
        )
    known = architecture or {}
    made = import_module(f"{__package__}.{library}").build(rest, dim, weights, known.get("config"))
    if isinstance(made, Student):
        return made
    input = InputSpec.from_json(known["input"]) if known else made.input
    return adapt(
        made.module, dim, backbone=made.backbone, input=input, config=made.config, name=name
    )
