"""Invariant: loader processes can hand over their batches, wherever temporary files lie."""

from __future__ import annotations

import os
import tempfile
from multiprocessing import util

from c2s_cache.errors import ConfigError

LONGEST = 107 - len("/pymp-01234567/listener-01234567")
"""Bytes of a folder in which multiprocessing can make sockets: an address has 107."""
SHORT = ("/tmp", "/var/tmp", "/dev/shm")


def short_sockets() -> None:
    """Have this process and those that it starts make their sockets where the address is short enough.

    With a longer one the processes of a loader lose every batch, and wait for ever.

    Raises:
        ConfigError: there is no such folder.
    """
    usual = tempfile.gettempdir()
    if os.name != "posix" or len(os.fsencode(usual)) <= LONGEST:
        return
    fitting = [folder for folder in SHORT if os.access(folder, os.W_OK | os.X_OK)]
    if not fitting:
        raise ConfigError(
            f"loader processes cannot make sockets in {usual}: its name has {len(os.fsencode(usual))} bytes, "
            f"expected at most {LONGEST}.",
            "Name a shorter folder in TMPDIR, or take --workers 0.",
        )
    tempfile.tempdir = fitting[0]
    try:
        util.get_temp_dir()  # made once a process, kept, and handed to those that it starts
    finally:
        tempfile.tempdir = usual
