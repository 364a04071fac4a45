"""Invariant: semaphores that processes share have no names once all have opened them, so that SIGKILL leaves none."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import util
from multiprocessing.synchronize import SemLock


def named() -> dict[object, Callable[[], object]]:
    """What removes the names of this process's semaphores from /dev/shm, by what stays the same of each.

    A name may go when every process that is to share the semaphore has opened it.
    """
    known = util._finalizer_registry  # type: ignore[attr-defined]
    cleanup = SemLock._cleanup  # type: ignore[attr-defined]
    return {key: remove for key, remove in list(known.items()) if remove._callback is cleanup}
