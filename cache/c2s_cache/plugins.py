"""Invariant: code of the user's own is named as `python:MODULE:NAME` by the user, and by no file."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from c2s_cache.errors import ConfigError

CODE = "python:"


def imported(reference: str, what: str) -> Any:
    """The object that `python:MODULE:NAME` names.

    Args:
        reference: such a name.
        what: it is to be, for messages: "teacher", "stage".

    Raises:
        ConfigError: it cannot be imported.
    """
    module, _, name = reference.removeprefix(CODE).partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), name)):
        raise ConfigError(f"There is no {what} {reference}; write python:MODULE:CLASS.")
    try:
        return getattr(import_module(module), name)
    except Exception as error:  # whatever the module does while it is imported
        said = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"The {what} {reference} cannot be imported ({said}).",
            f"{module} must be importable wherever it is used (see PYTHONPATH).",
        ) from error
