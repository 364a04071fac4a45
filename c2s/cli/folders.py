"""Folders that a command is to write into, looked at before it computes anything."""

from __future__ import annotations

import os
from pathlib import Path

from c2s_cache.errors import ConfigError


def check_folder(folder: Path, option: str = "--out") -> None:
    """Refuse a folder that could not be made or written into; nothing is made yet.

    Raises:
        ConfigError: a file is there or on the way, or the right to write is missing.
    """
    try:
        there = next(p for p in (folder, *folder.absolute().parents) if _is_there(p))
        if not there.is_dir():
            raise ConfigError(f"{option} {folder}: {there} is a file; expected a folder.")
        if not os.access(there, os.W_OK | os.X_OK):
            raise ConfigError(f"{option} {folder}: {there} may not be written into.")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{option} {folder} cannot be used ({reason}).") from error


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
