"""Invariant: one process at a time owns what it changes, by whatever path it came, and leaves no lock behind.

A lock is a file inside the folder that it guards, so that a link to the folder leads to the same lock. It is made
for its holder and removed by it; the kernel releases it when the holder dies, and the next one takes over the file.
Guard a folder of your own, such as a run's, with

    with locked(folder / LOCK, C2SError(f"another process is training into {folder}.")):
        ...

and a folder that is replaced as a whole, such as a folded model, with a file beside its resolved path:

    out = out.resolve()
    with locked(out.with_name(f".{out.name}.lock"), C2SError(...)):
        ...

Caches are built under `build_lock`. A lock reaches as far as the file system's `flock` does: to all processes of one
machine, on some network file systems to those of others, too.
"""

from __future__ import annotations

import errno
import math
import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from c2s_cache.errors import C2SError, CacheError

LOCK = ".c2s-lock"
"""Name of the lock inside a folder."""
OWNER = ".c2s-owner"
"""Name of the file in a cache that holds its builder's token."""
PATIENCE = 60.0
"""Seconds that a new owner waits for what workers of an earlier build are writing at that moment."""
INTERVAL = 0.02
"""Seconds between two looks at a lock that another holds."""
LEFT = (f"{LOCK}-*", "*/*/c/*.partial")
"""What killed workers leave in a cache that no later write removes: blocks' locks, and Zarr's half-written files beside
the shards of one-dimensional arrays. (Others lie in the folder of their block, which is removed before a write.)"""
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


class NoLocks(CacheError):
    """The file system has no file locks."""


@contextmanager
def locked(
    file: Path, busy: C2SError, patience: float = 0.0, required: bool = True
) -> Iterator[None]:
    """Hold the lock `file`, which is made for it and removed in the end.

    Args:
        file: in a folder that exists, on a path that means the same to all who ask.
        busy: raised where another process (or this one) holds it.
        patience: seconds that it is waited for before; may be infinite.
        required: raise where the file system has no locks; else go on without.

    Raises:
        NoLocks: the file system has none.
        OSError: the file cannot be made.
    """
    handle = _acquire(file, busy, patience, required)
    try:
        yield
    finally:
        with suppress(
            OSError
        ):  # before it is released: who opened it meanwhile sees that it is gone
            file.unlink()
        os.close(handle)


def _acquire(file: Path, busy: C2SError, patience: float, required: bool) -> int:
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            flock(handle, exclusive=True, patience=patience)
            if _same(handle, file):
                return handle
        except BlockingIOError:
            os.close(handle)
            raise busy from None
        except NoLocks:
            if not required:
                return handle
            _remove(file, handle)
            raise
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its holder removed it between the two calls


def _same(handle: int, file: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False


def _remove(file: Path, handle: int) -> None:
    os.close(handle)
    with suppress(OSError):
        file.unlink()


def flock(handle: int, exclusive: bool, patience: float = math.inf) -> None:
    """Lock an open file until it is closed.

    Raises:
        BlockingIOError: another holds it, and did so for `patience` seconds.
        NoLocks: the file system, or the operating system, has none.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            _try(handle, exclusive)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            raise NoLocks(
                f"this file system has no file locks ({error.strerror}), so nothing keeps two builds of "
                "one cache apart.",
                "Build on a local disk; the finished cache may be copied anywhere.",
            ) from error
        time.sleep(INTERVAL)


def _try(handle: int, exclusive: bool) -> None:
    if sys.platform == "win32":
        raise OSError(errno.ENOSYS, "Windows has none of this kind")
    import fcntl

    fcntl.flock(handle, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)


@contextmanager
def build_lock(path: Path) -> Iterator[str]:
    """Hold the exclusive right to build into `path`; the kernel drops it when the process dies.

    Workers of an earlier builder may outlive it. They lose the right to write (see `writing`) before
    this returns. Folders that this had to make are removed again if they are left empty.

    Yields:
        The token by which workers of this build show that they work for the owner.

    Raises:
        CacheError: another process is building into the same cache, or there are no locks there.
        OSError: the folder cannot be made or written.
    """
    busy = CacheError(
        f"another process is building {path}.", "Wait for it to end, or choose another --out."
    )
    with _folder(path), locked(path / LOCK, busy):
        token = _take_over(path)
        try:
            yield token
        finally:
            _withdraw(path)


@contextmanager
def _folder(path: Path) -> Iterator[None]:
    made = [p for p in (path, *path.parents) if not p.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        with suppress(OSError):
            for folder in made:
                folder.rmdir()


@contextmanager
def writing(path: Path, token: str) -> Iterator[None]:
    """Write into a cache for its owner; ownership does not change meanwhile.

    Raises:
        CacheError: the cache has another owner by now.
    """
    lost = CacheError(f"another build has taken over {path}: this one may not write any more.")
    try:
        handle = os.open(path / OWNER, os.O_RDONLY)
    except FileNotFoundError:
        raise lost from None
    with os.fdopen(handle, encoding="utf-8") as file:
        flock(handle, exclusive=False)
        if file.read() != token:
            raise lost
        yield


@contextmanager
def writing_block(path: Path, block: int) -> Iterator[None]:
    """Write into a block alone: Dask may run a task twice, in two workers at once.

    Raises:
        CacheError: another worker has been writing there for a minute.
    """
    busy = CacheError(
        f"another worker has been writing block {block} of {path} for {PATIENCE:.0f} s and does not end.",
        "End that worker, then run the same command again to resume.",
    )
    with locked(path / f"{LOCK}-{block:06d}", busy, PATIENCE):
        yield


def _take_over(path: Path) -> str:
    token = secrets.token_hex(16)
    with (path / OWNER).open("a+", encoding="utf-8") as file:
        try:
            flock(file.fileno(), exclusive=True, patience=PATIENCE)
        except BlockingIOError as error:
            raise CacheError(
                f"a worker of an earlier build is still writing into {path}.",
                "End that worker, then run the same command again.",
            ) from error
        _clear(path)
        file.truncate(0)
        file.write(token)
        file.flush()
        os.fsync(file.fileno())
    return token


def _withdraw(path: Path) -> None:
    """Take the right to write from our workers. One that is writing now keeps it, and the file stays."""
    with suppress(OSError, NoLocks), (path / OWNER).open("r+", encoding="utf-8") as file:
        flock(file.fileno(), exclusive=True, patience=0.0)
        file.truncate(0)  # who opened it meanwhile finds no token
        _clear(path)
        (path / OWNER).unlink()


def _clear(path: Path) -> None:
    """Remove what killed workers left, while nobody writes: looking for it before each write would be quadratic."""
    for file in (file for pattern in LEFT for file in path.glob(pattern)):
        file.unlink(missing_ok=True)
