"""What only POSIX has is imported where it is used, so that Windows can read caches, train and predict."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
POSIX = {"fcntl", "grp", "pwd", "resource", "termios", "tty"}
FILES = [
    f
    for part in ("c2s", "pipeline/c2s_pipeline", "cache/c2s_cache")
    for f in sorted((ROOT / part).rglob("*.py"))
    if "gpu" not in f.parts  # the checks of a Linux machine with a GPU
]


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_no_file_imports_what_only_posix_has(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = {
        alias.name if isinstance(node, ast.Import) else node.module
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not names & POSIX
