"""Invariant: nothing is ever removed but folders that carry our own mark.

What we write into a folder of its own (a run, a folded model) begins with its mark: a JSON file with keys that
nobody else writes. To replace such a folder, remove it with its `Mark`:

    RUN = Mark("a run", "run.json", ("dataset", "fingerprints"))
    RUN.remove(path)  # NotOurs: what it is, what is in it, and that nothing was removed
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from c2s_cache.errors import C2SError

SHOWN = 3
"""Names of a foreign folder's content that a message gives."""


class NotOurs(C2SError):
    """A folder stands where ours is to be, and is somebody else's."""


@dataclass(frozen=True)
class Mark:
    """How folders of one kind are known.

    Args:
        what: the kind with its article, such as "a run".
        file: name of the JSON file that such a folder begins with and that is removed last.
        keys: keys of the object in that file.
    """

    what: str
    file: str
    keys: tuple[str, ...]

    def on(self, folder: Path) -> bool:
        """Whether a folder carries the mark; a symbolic link to one does not."""
        file = folder / self.file
        try:
            content = json.loads(file.read_bytes()) if file.is_file() else None  # no pipe
        except (OSError, ValueError, RecursionError):
            return False
        ours = isinstance(content, dict) and set(self.keys) <= content.keys()
        return ours and not folder.is_symlink()

    def remove(self, folder: Path) -> None:
        """Remove a folder of this kind with all that is in it, the mark last; or an empty folder.

        Raises:
            NotOurs: it is something else.
            OSError: it cannot be removed.
        """
        if not self.on(folder):
            if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
                folder.rmdir()
                return
            raise NotOurs(
                f"{folder} is not {self.what} of ours ({contents(folder)}), so it is not removed.",
                "Choose another name, or move it out of the way.",
            )
        for entry in folder.iterdir():
            if entry.name == self.file:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        (folder / self.file).unlink()
        folder.rmdir()


def contents(path: Path) -> str:
    """What lies at a path, in a few words: "a file", "a symbolic link", or what a folder holds."""
    if path.is_symlink():
        return f"a symbolic link to {path.readlink()}"
    if not path.is_dir():
        return "a file"
    with os.scandir(path) as entries:
        names = sorted(entry.name for entry in islice(entries, 1000))
    more = len(names) - SHOWN
    return "it holds " + ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
