"""Every c2s command that the README prints exists, with every option it uses."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from c2s.cli import app

README = Path(__file__).parents[1] / "README.md"


def printed_commands() -> list[str]:
    """Commands in indented blocks, table cells and inline code, without their comments."""
    text = README.read_text()
    blocks = re.findall(r"^    (c2s .*)$", text, re.MULTILINE)
    inline = re.findall(r"`(c2s [^`]*)`", text)
    commands = [re.sub(r"\s+#.*$", "", line).strip() for line in blocks + inline]
    return sorted({c for c in commands if "->" not in c and "," not in c.split('"')[0]})


@pytest.mark.parametrize("line", printed_commands())
def test_the_command_exists(line: str) -> None:
    command = typer.main.get_command(app)
    words = shlex.split(line)[1:]
    while words and hasattr(command, "commands"):
        word = words.pop(0)
        assert word in command.commands, f"{line}: there is no {word!r}"
        command = command.commands[word]
    known = {option for param in command.params for option in param.opts}
    used = [word.partition("=")[0] for word in words if word.startswith("--")]
    assert set(used) <= known | {"--help"}, line


def test_the_readme_prints_commands() -> None:
    assert len(printed_commands()) > 8
