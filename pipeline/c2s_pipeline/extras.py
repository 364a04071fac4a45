"""Invariant: a missing optional library is one sentence with the command that installs it."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from c2s_cache import MissingExtra


def require(module: str, extra: str) -> ModuleType:
    """Import an optional library.

    Args:
        module: dotted module name.
        extra: the extra of this distribution that brings it.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtra(
            f"this command needs the Python package {module.split('.')[0]}, which is not installed.",
            f"Install it with: pip install 'c2s[{extra}]'",
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """open_clip reports every step to the root logger, which would also configure that logger."""
    root, silence = logging.getLogger(), logging.NullHandler()
    level = root.level
    root.addHandler(silence)
    root.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)
        root.removeHandler(silence)
