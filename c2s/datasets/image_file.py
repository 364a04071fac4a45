"""Invariant: an image file is read whole or refused in a sentence, whatever stands under its name."""

from __future__ import annotations

import stat
from pathlib import Path

from c2s_cache.errors import UnreadableImage


def image_bytes(file: Path) -> bytes:
    """Bytes of an image file, still encoded.

    Raises:
        UnreadableImage: it cannot be read, or is a pipe, socket or device, which may never end.
    """
    try:
        mode = file.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise UnreadableImage(f"{file} is no regular file, but a pipe, socket or device.")
        return file.read_bytes()
    except OSError as error:
        raise UnreadableImage(f"{file} cannot be read ({error.strerror}).") from error
