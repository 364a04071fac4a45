"""Invariant: nothing here changes a result; it is how torch's threads wait and how memory is kept on a CPU."""

from __future__ import annotations

import ctypes
import os
import sys

SPINS = "2000"
"""Turns, some microseconds. libgomp's own 300,000 make a thread whose partner another process has
displaced burn its core until that one is back."""
KEPT = 1 << 30
"""Bytes. glibc hands tensors of a few MB back to the system at every turn and has them faulted in anew, up
to a fifth of a small student's training step."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def prepare() -> None:
    """Set up this process and those it starts; to be called before torch is imported.

    What the environment already says about waiting threads (OMP_WAIT_POLICY, GOMP_SPINCOUNT) or
    memory (MALLOC_*) is left as it is.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_TRIM_THRESHOLD, KEPT)
        libc.mallopt(M_MMAP_THRESHOLD, KEPT)
        os.environ["MALLOC_TRIM_THRESHOLD_"] = os.environ["MALLOC_MMAP_THRESHOLD_"] = str(KEPT)
