"""Invariant: whoever watches a grid run, on a terminal or in a log, is told of every run once it has ended."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from c2s.ablation.cell import Scoring
from c2s.ablation.plan import Plan
from c2s.ablation.runner import Board, ablate, derive_caches
from c2s.terminal import BuildBar


def run_grids(
    plans: Sequence[Plan], scoring: Scoring, jobs: int | None = None
) -> list[dict[str, Any]]:
    """Derive caches and run everything, `jobs` runs side by side, with a live table on a terminal's stderr.

    Returns:
        The facts of each plan; see `ablate`.
    """
    console = Console(stderr=True, markup=False)
    for plan in plans:
        _derive(plan, console)
    labels = {name: what for plan in plans[::-1] for name, what in plan.labels().items()}
    shown: set[str] = set()

    def watch(board: Board) -> None:
        if console.is_terminal:
            live.update(_live_table(board))
        else:
            for name in board.outcomes.keys() - shown:
                shown.add(name)
                done = f"{len(board.outcomes)} of {len(board.runs)}"
                said = f"{done}: {labels[name]}, {board.state(board.runs[name])}"
                print(said, file=sys.stderr, flush=True)

    with Live(console=console, auto_refresh=False, transient=True) as live:
        return ablate(plans, scoring, watch, jobs)


def _derive(plan: Plan, console: Console) -> None:
    if not plan.derived:
        return
    from c2s_pipeline.extras import require

    require("open_clip", "build")
    require("distributed", "build")
    for path, changes in plan.derived.items():
        console.print(f"{path} is derived with {json.dumps(changes)}", highlight=False)
    with BuildBar() as bar:
        derive_caches(plan, bar)


def _live_table(board: Board) -> Table:
    tables = [table for plan in board.plans for table in plan.tables]
    seeds = max(len(line.runs) for _, lines in tables for line in lines)
    table = Table("table", "row", "student", *(f"seed {i}" for i in range(seeds)))
    for grid, lines in tables:
        for line in lines:
            states = (board.state(run) for run in line.runs)
            table.add_row(grid.name, line.row.name, line.student, *states)
    return table
