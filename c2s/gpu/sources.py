"""Which sources ran, where git's own record of them may be missing."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from c2s.gpu.environment import note

FOLDERS = ("c2s", "cache/c2s_cache", "pipeline/c2s_pipeline")


def digest(root: Path) -> str:
    """Hex SHA-256 of names and contents of all Python files of the three packages."""
    hasher = hashlib.sha256()
    for file in sorted(f for folder in FOLDERS for f in (root / folder).rglob("*.py")):
        content = file.read_bytes()
        hasher.update(f"{file.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return hasher.hexdigest()


def commit(root: Path) -> str:
    """The commit of a checkout, "unknown" without git's record; says whether files were changed."""
    if not (root / ".git").exists():
        return "unknown"

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + (", with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def origin(root: Path) -> str:
    """The commit that the sources are of: git's word, else what was noted with the wheels."""
    found, noted = commit(root), note(root)
    if found != "unknown" or not noted:
        return found
    same = noted.get("sources") == digest(root)
    return str(noted["commit"]) + ("" if same else ", and changed since")
