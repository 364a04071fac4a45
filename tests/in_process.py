"""The command line in this process, which imports nothing anew, as a function of its arguments."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from c2s.cli import main

Command = Callable[..., str]


def command(folder: Path, data: Path | None = None) -> Command:
    """c2s in that folder, with its data sets in `data`: what it printed; of a `code` other than 0, what it complained
    of."""

    def run(*arguments: object, code: int = 0) -> str:
        out, err = io.StringIO(), io.StringIO()
        ended = 0
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.chdir(folder)
            if data is not None:
                patch.setenv("C2S_DATA", str(data))
            patch.setattr(sys, "argv", ["c2s", *map(str, arguments)])
            try:
                main()
            except SystemExit as stop:
                ended = int(stop.code or 0)
        assert ended == code, err.getvalue()
        return err.getvalue() if code else out.getvalue()

    return run
