"""Which libraries have adapters, and how a student's name leads to one."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from c2s.students.adapters.adapted import adapt
from c2s.students.adapters.foreign import InputSpec
from c2s.students.base import Student
from c2s.students.registry import FORMS
from c2s_cache.errors import ConfigError


def create_adapted(
    name: str, dim: int, weights: str | None, architecture: Mapping[str, Any] | None
) -> Student:
    """A student of another library by name.

    Args:
        name: of one of the registry's `FORMS`; what it may be, and which weights there are, says `build` of the
            module of that prefix.
        dim: D.
        weights: as for `c2s.students.create`.
        architecture: as an earlier student of that name says (`Student.architecture`).

    Raises:
        ConfigError: no such library or model, or it cannot be adapted, or the weights do not fit.
        MissingExtra: the library is not installed.
    """
    library, _, rest = name.partition(":")
    if library not in FORMS or not rest:
        raise ConfigError(
            f"There is no student {name!r}; write one of {', '.join(FORMS.values())}."
        )
    known = architecture or {}
    made = import_module(f"{__package__}.{library}").build(rest, dim, weights, known.get("config"))
    if isinstance(made, Student):
        return made
    input = InputSpec.from_json(known["input"]) if known else made.input
    return adapt(
        made.module, dim, backbone=made.backbone, input=input, config=made.config, name=name
    )
