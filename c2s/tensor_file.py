"""Invariant: a safetensors file is the old one or the new, wherever writing it stopped."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from c2s_cache.receipt import sync_directory


def write_whole(file: Path, write: Callable[[Path], object]) -> None:
    """Have a safetensors file written so that any reader sees the old one or the new, also after a crash.

    Args:
        file: the file.
        write: writes one to the path it is given.

    Raises:
        OSError: it cannot be written.
    """
    partial = file.with_name(f".{file.name}.part")
    for path in (file, partial):
        if path.exists() and not path.is_file():  # a device or a pipe would be replaced
            raise OSError(errno.EINVAL, "no regular file", str(path))
    try:
        partial.touch()
        mode = partial.stat().st_mode
        write(partial)
        partial.chmod(mode)  # safetensors' own files are their owner's alone, whatever the umask
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(file)
        sync_directory(file.parent)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    finally:
        partial.unlink(missing_ok=True)
