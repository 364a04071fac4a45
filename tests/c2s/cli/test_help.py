"""Help says every word that it was written with, and `python -m c2s` is the command."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from c2s.cli import app


def commands(command, path=()):
    """Every command and group, each with the words that lead to it."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_no_word_of_help_is_swallowed(path):
    """Such as `<data set>`, which markup takes for a tag."""
    shown = (
        CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    )
    words = set(re.sub(r"[│╭╮╰╯─]", " ", shown).split())
    command = COMMANDS[path]
    written = [command.help or "", *(getattr(p, "help", None) or "" for p in command.params)]
    assert {w for text in written for w in text.replace("`", "").split()} <= words


@pytest.mark.slow
def test_python_runs_the_package_as_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "c2s", "--version"], capture_output=True, text=True, timeout=300
    )
    assert re.fullmatch(r"c2s \d+\.\d+\S*\n", done.stdout), done.stderr


def test_ctrl_c_while_the_command_still_imports_shows_no_traceback():
    program = """
import sys
class Pressed:
    def find_spec(self, name, path=None, target=None):
        if name == "zarr":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Pressed())
import c2s.cli
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "")
