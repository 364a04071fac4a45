"""Invariant: whoever watches a grid run, on a terminal or in a log, is told of every run once it has ended."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from c2s.ablation.cell import Scoring
from c2s.ablation.plan import Plan, Request
from c2s.ablation.runner import Board, ablate, derive_caches
from c2s.terminal import BuildBar


def run_grids(
    plan: Plan, request: Request, scoring: Scoring, jobs: int | None = None
) -> dict[str, Any]:
    """Derive caches and run everything, `jobs` runs side by side, with a live table on a terminal's stderr."""
    console = Console(stderr=True, markup=False)
    if plan.derived:
        from c2s_pipeline.extras import require

        require("open_clip", "build")
        require("distributed", "build")
        for path, changes in plan.derived.items():
            console.print(f"{path} is derived with {json.dumps(changes)}", highlight=False)
        with BuildBar() as bar:
            derive_caches(plan, request, bar)
    shown: set[str] = set()

    def watch(board: Board) -> None:
        if console.is_terminal:
            live.update(_live_table(board))
        else:
            for name in board.outcomes.keys() - shown:
                shown.add(name)
                state = board.state(next(r for r in plan.runs if r.run_name == name))
                done = f"{len(board.outcomes)} of {len(plan.runs)}"
                print(f"{done}: {plan.label(name)}, hIoU {state}", file=sys.stderr, flush=True)

    with Live(console=console, auto_refresh=False, transient=True) as live:
        return ablate(plan, request, scoring, watch, jobs)


def _live_table(board: Board) -> Table:
    seeds = max(len(line.runs) for _, lines in board.plan.tables for line in lines)
    table = Table("table", "row", "student", *(f"seed {i}" for i in range(seeds)))
    for grid, lines in board.plan.tables:
        for line in lines:
            states = (board.state(run) for run in line.runs)
            table.add_row(grid.name, line.row.name, line.student, *states)
    return table
