"""Invariant: a text file that a user names is read whole or refused in a sentence, whatever it is."""

from __future__ import annotations

import stat
from pathlib import Path

from c2s_cache.errors import C2SError, DataError


def read_text(
    file: Path, what: str = "", most: int = 1 << 28, error: type[C2SError] = DataError
) -> str:
    """Text of a file in UTF-8, with or without a byte order mark.

    Args:
        file: a regular file: pipes and devices may never end.
        what: it is, for messages, such as "configuration file".
        most: bytes that it may have; more are not read.
        error: to raise.

    Raises:
        C2SError: of the type `error`: the file cannot be read, is too large, or no text in UTF-8.
    """
    where = f"{what} {file}".strip()
    try:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file"
            raise error(f"{where} is {kind}; expected a text file.")
        if found.st_size > most:
            raise error(f"{where} has {found.st_size:,} bytes; expected {most:,} at most.")
        data = file.read_bytes()
    except (OSError, ValueError) as failed:  # ValueError: a NUL in its name
        reason = getattr(failed, "strerror", None) or failed
        raise error(f"{where} cannot be read ({reason}).") from failed
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as failed:
        form = "UTF-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "another encoding"
        line = data[: failed.start].count(b"\n") + 1
        raise error(
            f"{where} is not UTF-8 but {form}: byte 0x{data[failed.start]:02x} in line {line}.",
            "Save it as UTF-8.",
        ) from failed
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise error(f"{where} is no text: a zero byte in line {line}.", "Save it as UTF-8.")
    return text
