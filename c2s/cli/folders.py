"""Folders and files that a command is to write, looked at before it computes anything."""

from __future__ import annotations

import os
from pathlib import Path

from c2s.config import in_store
from c2s_cache.errors import C2SError, ConfigError


def check_folder(folder: Path, option: str = "--out") -> None:
    """Refuse a folder that could not be made or written into; nothing is made yet.

    Raises:
        ConfigError: a file is there or on the way, the right to write is missing, or it is the URL of a store.
    """
    require_local(folder, option)
    try:
        there = next(p for p in (folder, *folder.absolute().parents) if _is_there(p))
        if not there.is_dir():
            raise ConfigError(f"{option} {folder}: {there} is a file; expected a folder.")
        if not os.access(there, os.W_OK | os.X_OK):
            raise ConfigError(f"{option} {folder}: {there} may not be written into.")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{option} {folder} cannot be used ({reason}).") from error


def then_look(folder: Path) -> str:
    """What to run once a data set of one's own is written."""
    where = folder if len(folder.parts) > 1 else f"./{folder}"
    return f"Then look: c2s data check {where}; c2s data show {where} --out sheet.png"


def require_local(path: Path, option: str = "--out") -> None:
    """Refuse a URL, of which a path makes a folder `s3:` of the working directory.

    Raises:
        ConfigError: it is one.
    """
    if in_store(path):
        raise ConfigError(
            f"{option} {path} is a place in a store; results are written to a local disk.",
            "Copy them from there.",
        )


def check_file(file: Path, option: str = "--out") -> None:
    """Refuse a file that could not be written; nothing is written yet.

    Raises:
        ConfigError: a folder is there, the folder it is to lie in is missing, or the right to write.
    """
    require_local(file, option)
    if file.is_dir():
        raise ConfigError(f"{option} {file} is a folder; expected the name of a file.")
    if not _is_there(file.parent):
        raise ConfigError(f"{option} {file}: there is no folder {file.parent}.")
    check_folder(file.parent, option)
    if _is_there(file) and not os.access(file, os.W_OK):
        raise ConfigError(f"{option} {file} may not be written.")


def write_file(file: Path, content: bytes) -> None:
    """Write a result of a command; where that fails, what was there before stays.

    Raises:
        C2SError: it cannot be written.
    """
    part = file.with_name(f".{file.name}.part")
    try:
        if _is_there(file) and not file.is_file():  # a device or a pipe
            file.write_bytes(content)
            return
        part.write_bytes(content)
        part.replace(file.resolve())
    except OSError as error:
        part.unlink(missing_ok=True)
        raise C2SError(f"{file} cannot be written ({error.strerror or error}).") from error


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
