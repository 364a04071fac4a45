"""Invariant: one builder at a time owns a cache, and nobody writes into it for a builder of the past."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from c2s_cache.errors import CacheError

PATIENCE = 60.0
"""Seconds that a new owner waits for what workers of an earlier build are writing at that moment."""


@contextmanager
def build_lock(path: Path) -> Iterator[str]:
    """Hold the exclusive right to build into `path`; the kernel drops it when the process dies.

    Workers of an earlier builder may outlive it. They lose the right to write (see `writing`) before
    this returns.

    Yields:
        The token by which workers of this build show that they work for the owner.

    Raises:
        CacheError: another process is building into the same cache.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CacheError(
                f"another process is building {path}.",
                "Wait for it to end, or choose another --out.",
            ) from error
        yield _take_over(path)


@contextmanager
def writing(path: Path, token: str) -> Iterator[None]:
    """Write into a cache for its owner; ownership does not change meanwhile.

    Raises:
        CacheError: the cache has another owner by now.
    """
    with _owner(path).open("r", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        if file.read() != token:
            raise CacheError(
                f"another build has taken over {path}: this one may not write any more."
            )
        yield


def _take_over(path: Path) -> str:
    token = secrets.token_hex(16)
    with _owner(path).open("a+", encoding="utf-8") as file:
        _wait_for_writers(file, path)
        file.truncate(0)
        file.write(token)
        file.flush()
        os.fsync(file.fileno())
    return token


def _wait_for_writers(file: IO[str], path: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise CacheError(
                    f"a worker of an earlier build is still writing into {path}.",
                    "End that worker, then run the same command again.",
                ) from error
        time.sleep(0.05)


def _owner(path: Path) -> Path:
    return path.with_name(f".{path.name}.owner")
