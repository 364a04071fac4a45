"""Models of the user's own code: `python:package.module:factory`."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch import nn

from c2s.students.adapters.classifier import reason
from c2s.students.adapters.library_student import LibraryStudent
from c2s.students.adapters.weights import making
from c2s.students.base import Student
from c2s_cache.errors import ConfigError


def build(name: str, dim: int, weights: str | None, config: Any = None) -> LibraryStudent | Student:
    """What a function makes for D outputs: a module to adapt, or a `Student`, such as `adapt` gives.

    Args:
        name: module and function, such as "mine.models:unet"; the function takes D. Runs open only where
            the module can be imported.
        dim: D.
        weights: None or "random"; the function itself says what its model starts from.
        config: unused.

    Raises:
        ConfigError: the module cannot be imported or has no such function, it fails, or there are weights.
    """
    module, _, factory = name.partition(":")
    if not factory or not all(part.isidentifier() for part in module.split(".")):
        raise ConfigError(f"There is no student python:{name}; write python:MODULE:FUNCTION.")
    if weights is not None:
        raise ConfigError(
            f"python:{name} takes no weights, got {weights!r}.",
            "Let the function load them.",
        )
    try:
        function = getattr(import_module(module), factory)
    except Exception as error:  # whatever the module does while it is imported
        raise ConfigError(
            f"The student python:{name} cannot be imported ({reason(error)}).",
            f"{module} must be importable to train the student and to open its runs (see PYTHONPATH).",
        ) from error
    with making(f"python:{name}", None):
        made = function(dim)
    if isinstance(made, Student):
        return made
    if not isinstance(made, nn.Module):
        raise ConfigError(
            f"python:{name} gave a {type(made).__name__}, expected a torch.nn.Module."
        )
    return LibraryStudent(made)
