"""Invariant: code of the user's own is named as `python:MODULE:NAME` by the user, by no file, or is installed."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import EntryPoint
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
        raise ConfigError(
            f"The {what} {reference} cannot be imported ({_said(error)}).",
            f"{module} must be importable wherever it is used (see PYTHONPATH).",
        ) from error


def loaded(entry: EntryPoint, what: str) -> Any:
    """The object that an installed package brings.

    Args:
        entry: its entry point.
        what: it is to be, for messages.

    Raises:
        ConfigError: it cannot be imported.
    """
    try:
        return entry.load()
    except Exception as error:  # whatever the package does while it is imported
        package = entry.dist.name if entry.dist is not None else entry.module
        raise ConfigError(
            f"The {what} {entry.name} of the package {package} cannot be imported ({_said(error)}).",
            f"Mend that package, or remove it: pip uninstall {package}",
        ) from error


def _said(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
