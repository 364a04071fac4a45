"""Invariant: a step and all that it starts live in one process tree, which can be watched and ended as a whole."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
from pathlib import Path

PROC = Path("/proc")
MIB = 2**20


def family(leader: int) -> dict[int, int]:
    """Resident bytes of every process of the group that `leader` began, and of their descendants.

    Where there is no /proc only the leader is known, with 0 bytes.
    """
    facts: dict[int, tuple[int, int, int]] = {}  # parent, group, resident bytes
    page = os.sysconf("SC_PAGE_SIZE")
    for entry in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            if fields[0] != "Z":
                facts[int(entry.name)] = int(fields[1]), int(fields[2]), page * int(fields[21])
    members = {pid for pid, (_, group, _) in facts.items() if leader in (pid, group)}
    while more := {p for p, (parent, _, _) in facts.items() if parent in members} - members:
        members |= more
    return {pid: facts[pid][2] for pid in members} if facts else {leader: 0}


def ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process has ended; its number stays taken until `end`."""
    look = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, process.pid, look) is not None


def end(process: subprocess.Popen[bytes]) -> float:
    """Kill what is left of a process and of all that it started, and wait for it.

    Returns:
        Processor seconds that it took, with those that it had waited for; 0 if it was over before.
    """
    if process.returncode is not None:
        return 0.0
    before = _waited_for()
    for pid in family(process.pid):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return _waited_for() - before


def _waited_for() -> float:
    """Processor seconds of all processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def machine_memory() -> int:
    """Bytes of memory that this machine, or the container it is, may use."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8")))
    return total


def volunteer_for_the_oom_killer() -> None:
    """Have the kernel, when memory runs out, end this process and not the one that leads the steps."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("900", encoding="utf-8")
