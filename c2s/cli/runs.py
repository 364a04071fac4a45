"""A run as eval, predict and fold open it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from c2s.runs.run import Run


def opened_run(path: Path, allow_code: bool) -> Run:
    """See `open_run`; of a run that is not trained to its end a note says so."""
    from c2s.runs.run import open_run

    run = open_run(path, allow_code)
    if not run.complete:
        typer.echo(
            f"note: {path} has been trained for {run.step} of {run.config.total} iterations; "
            f"c2s train --resume {path} goes on.",
            err=True,
        )
    return run
