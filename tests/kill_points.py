"""Kills a process before every single change that it makes to files, one process a change."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate"}
SCRIPT = "import sys; from kill_points import sweep; from {module} import {name}; sweep({name}, *sys.argv[1:])"


def kill_everywhere(
    act: Callable[[Path], None], start: Path, folder: Path, every: int = 1
) -> list[Path]:
    """Run `act` on copies of a folder, killed before its first change, its second, and so on.

    Args:
        act: a function of a test module; it runs in other processes.
        start: the folder that each of them gets a copy of.
        folder: where the copies go.
        every: kill at every so manieth change only.

    Returns:
        What each of them left, in order; the last was not killed.
    """
    run = [sys.executable, "-c", SCRIPT.format(module=act.__module__, name=act.__name__)]
    code = Path(sys.modules[act.__module__].__file__ or "").parent
    paths = os.pathsep.join((str(Path(__file__).parent), str(code)))
    alone = {"PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run(
        [*run, str(start), str(folder), str(every)], check=True, env={**os.environ, **alone}
    )
    return sorted(folder.iterdir(), key=lambda path: int(path.name))


def sweep(act: Callable[[Path], None], start: str, folder: str, every: str) -> None:
    """The same, in a process without threads, which can be forked."""
    for step in count(1, int(every)):
        copy = Path(folder) / str(step)
        shutil.copytree(start, copy, symlinks=True)
        child = os.fork()
        if child == 0:
            _kill_before(step, copy)
            act(copy)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            return
        assert os.WIFSIGNALED(status), (step, status)


def _kill_before(step: int, folder: Path) -> None:
    left = step

    def look(event: str, args: tuple[object, ...]) -> None:
        nonlocal left
        if (event in CHANGES or (event == "open" and _writes(args))) and _below(args, folder):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)


def _writes(args: tuple[object, ...]) -> bool:
    return bool(int(args[2]) & (os.O_WRONLY | os.O_RDWR))  # type: ignore[call-overload]


def _below(args: tuple[object, ...], folder: Path) -> bool:
    """Within a folder of it, paths are names alone: `shutil.rmtree` works so."""
    name = args[0]
    if not isinstance(name, str | os.PathLike):
        return False
    path = os.fspath(name)
    return not Path(path).is_absolute() or path.startswith(str(folder))
