"""`c2s demo`: the main job, end to end, on the embedded Shapes world."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    seeds: Annotated[
        int, typer.Option(min=1, help="Seeds per row; the table shows mean and spread.")
    ] = 1,
    out: Annotated[Path, typer.Option(help="Folder for cache, runs, results and pictures.")] = Path(
        "runs/demo"
    ),
    recipe: Annotated[str, typer.Option(help="Settings of all rows: paper, or best.")] = "best",
) -> None:
    """Build the Shapes cache, train the four rows of the paper's Table IV, and compare."""
    from c2s_pipeline.extras import require

    for module, extra in (("open_clip", "build"), ("distributed", "build"), ("matplotlib", "demo")):
        require(module, extra)
    from c2s.demo.run import run

    run(seeds, out, recipe)
