"""What a power cut leaves of a folder: every state of the disk after each step of what writes to it.

Recorded are the files and the folders that were synced. A step is a call that syncs, renames, makes or
removes something; before and after each, the disk may hold one of these:

- killed: all that was done (the process died, the machine did not),
- zeros: all names, but zeros in place of what was not synced (as journals of metadata leave it),
- synced: names and contents as of the last sync of each, nothing else.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CALLS = ("fsync", "rename", "replace", "mkdir", "rmdir", "unlink")


class Disk:
    """A folder that is watched; its contents when the watch begins are on the disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[int, bytes] = {}
        self.folders: dict[int, dict[str, tuple[int, bool]]] = {}
        self._open: list[int] = []  # so that no number is given to another file
        for path in (root, *root.rglob("*")):
            self._sync(os.open(path, os.O_RDONLY))

    def _sync(self, handle: int) -> None:
        number = os.fstat(handle).st_ino
        self._open.append(handle)
        path = Path(f"/proc/self/fd/{handle}").readlink()
        if path.is_dir():
            self.folders[number] = {e.name: (e.inode(), e.is_dir()) for e in os.scandir(path)}
        else:
            self.files[number] = path.read_bytes()

    @contextmanager
    def watched(self, check: Callable[[Path, str], None], scratch: Path) -> Iterator[None]:
        """Call `check(folder, what)` with every state that a cut may leave, the last one included."""
        real = {name: getattr(os, name) for name in CALLS}
        busy = False

        def states(step: str) -> None:
            nonlocal busy
            busy = True
            try:
                for kind in (self._killed, self._zeros, self._synced):
                    shutil.rmtree(scratch, ignore_errors=True)
                    kind(scratch)
                    check(scratch, f"{kind.__name__} at {step}")
            finally:
                busy = False

        def recording(name: str) -> Callable[..., object]:
            def call(*arguments: object, **more: object) -> object:
                if busy:
                    return real[name](*arguments, **more)
                states(f"before {name}{arguments}")
                result = real[name](*arguments, **more)
                if name == "fsync":
                    self._sync(os.dup(arguments[0]))
                states(f"after {name}{arguments}")
                return result

            return call

        with pytest.MonkeyPatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, recording(name))
            yield
        states("the end")
        for handle in self._open:
            os.close(handle)

    def _killed(self, to: Path) -> None:
        shutil.copytree(self.root, to)

    def _zeros(self, to: Path) -> None:
        shutil.copytree(self.root, to)
        for path in self.root.rglob("*"):
            content = path.read_bytes() if path.is_file() else b""
            if path.is_file() and self.files.get(path.stat().st_ino) != content:
                (to / path.relative_to(self.root)).write_bytes(bytes(len(content)))

    def _synced(self, to: Path) -> None:
        self._restore(self.root.stat().st_ino, to)

    def _restore(self, number: int, to: Path) -> None:
        to.mkdir()
        for name, (inner, is_folder) in self.folders.get(number, {}).items():
            if is_folder:
                self._restore(inner, to / name)
            else:
                (to / name).write_bytes(self.files.get(inner, b""))
