"""Invariant: every failure a user can cause leaves here as one line on stderr and exit code 1 or 2."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import typer

from c2s import __version__
from c2s.cli import (
    ablate,
    bench,
    cache,
    data,
    demo,
    evaluate,
    fold,
    masks,
    predict,
    students,
    teachers,
    train,
)
from c2s.cpu_runtime import prepare
from c2s_cache.errors import C2SError, ConfigError, memory_ran_out

INTERRUPTED = 130
LONGEST = 4000
"""Characters of an error message."""

app = typer.Typer(
    name="c2s",
    help="Zero-shot semantic segmentation: distil CLIP from an offline teacher cache.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(cache.app, name="cache")
app.add_typer(data.app, name="data")
app.add_typer(masks.app, name="masks")
app.add_typer(students.app, name="students")
app.add_typer(teachers.app, name="teachers")
app.add_typer(bench.app, name="bench")
app.command("train")(train.train)
app.command("eval")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("fold")(fold.fold)
app.command("ablate")(ablate.ablate)
app.command("demo")(demo.demo)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"c2s {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def _short(error: C2SError) -> str:
    """The message, its middle left out where nobody would read it; the hint at its end stays."""
    text = str(error)
    left_out = len(text) - LONGEST
    half = LONGEST // 2
    return text if left_out <= 0 else f"{text[:half]} [{left_out:,} more characters] {text[-half:]}"


def _require_words(words: Sequence[str]) -> None:
    """Refuse an empty word, as a shell makes of a variable that is not set: as a path it would be this folder.

    Raises:
        ConfigError: there is one.
    """
    for before, word in pairwise(words):
        if not word.strip() or re.fullmatch(r"--[\w-]+=\s*", word):
            where = word.rstrip() or f"after {before[:80]}"
            raise ConfigError(
                f"{where}: the value is empty.", "Is a variable of the shell not set?"
            )


def main() -> None:
    """Entry point: run the app, turn every `C2SError` into one line, exit 1 (2 for wrong usage)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name may be no text, or none in this locale
            stream.reconfigure(errors="backslashreplace")
    prepare()
    try:
        _require_words(sys.argv)
        app()
    except C2SError as error:
        if not error.quiet:
            print(f"error: {_short(error)}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (RuntimeError, MemoryError) as error:
        if (which := memory_ran_out(error)) is None:
            raise
        way_out = (
            "Take less at a time" if which == "Memory" else "Free the GPU, or take --device cpu"
        )
        print(f"error: {which} ran out. {way_out}.", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if error.errno is None:  # nothing that the system has refused
            raise
        where = "" if error.filename is None else f"{str(error.filename)[:LONGEST]}: "
        print(f"error: {where}{error.strerror}.", file=sys.stderr)
        sys.exit(1)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:  # typer turns Ctrl-C into this, without a word
            print("interrupted: run the same command again to resume.", file=sys.stderr)
        raise
