"""Invariant: no text is read or written in the encoding of the place where the program runs."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = [f for part in ("c2s", "cache", "pipeline") for f in sorted((ROOT / part).rglob("*.py"))]

OTHERS = ("Image.open", "av.open", "os.open", "tarfile.open", "webbrowser.open")
"""Of that name, and for no text."""


def unencoded(source: str) -> list[int]:
    """Lines with a call that opens, reads or writes text and names no encoding."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return sorted(call.lineno for call in calls if _is_unencoded(call))


def _is_unencoded(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    last = name.rpartition(".")[2]
    if name in OTHERS or any(k.arg == "encoding" for k in call.keywords):
        return False
    if last in ("read_text", "write_text"):
        return name != last  # a function of that name is our own
    if last not in ("open", "fdopen", "TemporaryFile", "NamedTemporaryFile"):
        return False
    given = (*call.args[:2], *(k.value for k in call.keywords if k.arg == "mode"))
    words = [a.value for a in given if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    mode = next((w for w in words if w and set(w) <= set("rwaxbt+")), None)
    return last == "open" if mode is None else "b" not in mode


def test_the_check_sees_what_it_is_for():
    bad = "p.open()\np.open('a')\nopen(f, 'w')\nx.y.read_text()\nf().write_text(t)\nfdopen(0, mode='r')"
    assert unencoded(bad) == [1, 2, 3, 4, 5, 6]
    good = (
        "p.open('rb')\np.open('w', encoding='utf-8')\nread_text(f)\nImage.open(f)\nTemporaryFile()"
    )
    assert unencoded(good) == []


def test_every_text_file_has_a_named_encoding():
    found = {str(f.relative_to(ROOT)): unencoded(f.read_text(encoding="utf-8")) for f in SOURCES}
    assert {file: lines for file, lines in found.items() if lines} == {}
