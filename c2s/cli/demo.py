"""`c2s demo`: the main job, end to end, on the embedded Shapes world."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    seeds: Annotated[
        int, typer.Option(min=1, max=1000, help="Seeds per row; the table shows mean and spread.")
    ] = 1,
    out: Annotated[Path, typer.Option(help="Folder for cache, runs, results and pictures.")] = Path(
        "runs/demo"
    ),
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Settings of all rows [default: best, or paper where a method has none]."
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Whose main table [default: clip-to-seg]; repeatable. all: every method at its best, side by side."
        ),
    ] = None,
) -> None:
    """Build the Shapes cache, train the rows of the paper's main table (C2S: Table IV), and compare."""
    from c2s.cli.folders import check_folder
    from c2s_pipeline.extras import require

    check_folder(out)
    for module, extra in (("open_clip", "build"), ("distributed", "build"), ("matplotlib", "demo")):
        require(module, extra)
    from c2s.methods.registry import DEFAULT

    whose = tuple(dict.fromkeys(method or [DEFAULT]))
    if "all" in whose:
        from c2s.demo.comparison import compare

        compare(seeds, out, recipe)
    else:
        from c2s.demo.run import run

        run(seeds, out, recipe, methods=whose)
