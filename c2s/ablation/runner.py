"""Invariant: what is finished is known from run folders alone, so the same command always goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from c2s.ablation.cell import Scoring, stored_scores
from c2s.ablation.plan import Plan, build_requests
from c2s.ablation.report import grid_facts, unlike_paper, write_report
from c2s.ablation.teacher_time import teacher_time
from c2s.ablation.workers import Outcome, places, run_all
from c2s.runs.config import TrainConfig
from c2s.training.logs import read_metrics
from c2s_cache import C2SError, open_cache

if TYPE_CHECKING:
    from c2s_pipeline.build.resources import Progress

Watch = Callable[["Board"], None]


class Board:
    """Where every run stands: what the live table shows.

    Attributes:
        plans: what is run.
        runs: configurations by run name, of all plans.
        outcomes: run name -> scores, or the error that ended it.
        running: names of runs that have begun.
    """

    def __init__(self, plans: Sequence[Plan]) -> None:
        self.plans = plans
        self.runs = {run.run_name: run for plan in plans for run in plan.runs}
        self.outcomes: dict[str, Outcome] = {}
        self.running: set[str] = set()

    def state(self, config: TrainConfig) -> str:
        """A word or two on a run: its hIoU, or mIoU where that is none; failed, iterations done, or waiting."""
        name = config.run_name
        outcome = self.outcomes.get(name)
        if isinstance(outcome, C2SError):
            return "failed"
        if outcome is not None:
            score = "mIoU" if outcome["hIoU"] is None else "hIoU"
            return "-" if outcome[score] is None else f"{score} {outcome[score]:.1f}"
        if name not in self.running:
            return "waiting"
        records = read_metrics(config.runs / name)
        return f"{records[-1]['step'] if records else 0}/{config.total}"


def derive_caches(plan: Plan, progress: Progress | None = None) -> None:
    """Derive the caches that rows need beside the given one, once, into the output folder.

    Raises:
        C2SError: see `c2s_pipeline.build.derive.derive`; what is finished is kept.
    """
    from c2s_pipeline.build.derive import derive
    from c2s_pipeline.build.resources import Resources

    request = plan.request
    manifest = open_cache(request.cache).manifest
    for path, changes in plan.derived.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        _, wanted = build_requests(request, manifest, changes)
        resources = Resources() if progress is None else Resources(progress=progress)
        derive(Path(request.cache), wanted, path, resources, teacher=request.teacher)


def ablate(
    plans: Sequence[Plan], scoring: Scoring, watch: Watch, jobs: int | None = None
) -> list[dict[str, Any]]:
    """Run what is not finished of some plans, all runs in one queue, and report each.

    Writes NAME.md and NAME.json per grid into the folder of its plan.

    Args:
        plans: from `make_plan`, their caches derived.
        scoring: what to score on.
        watch: called whenever something changed, and about every second.
        jobs: runs side by side; see `c2s.ablation.workers.places`.

    Returns:
        Of each plan `grids` (see `report.grid_facts`), `caches`, `teacher` (see `teacher_time`), `scoring`, `failed`
        (run name -> sentence) and `seconds` of this command; where the reports could not be written,
        `unwritten` says why.

    Raises:
        C2SError: a worker died. Runs that fail are in `failed`.
        Interrupted: a signal asked for the end; the same command goes on.
    """
    began = time.monotonic()
    for plan in plans:
        plan.request.out.mkdir(parents=True, exist_ok=True)
    board = Board(plans)
    for name, config in board.runs.items():
        scores = stored_scores(config, scoring)
        if scores is not None:
            board.outcomes[name] = scores
    watch(board)

    def started(config: TrainConfig) -> None:
        board.running.add(config.run_name)

    def finished(config: TrainConfig, outcome: Outcome) -> None:
        board.outcomes[config.run_name] = outcome

    left = [config for name, config in board.runs.items() if name not in board.outcomes]
    if left:
        log = plans[0].request.out / "ablate.log"
        where = places(len(left), jobs)
        run_all(left, scoring, where, log, started, finished, lambda: watch(board))
    watch(board)
    seconds = round(time.monotonic() - began, 1)
    return [_report(plan, scoring, board, seconds) for plan in plans]


def _report(plan: Plan, scoring: Scoring, board: Board, seconds: float) -> dict[str, Any]:
    facts, out = _facts(plan, scoring, board, seconds), plan.request.out
    try:
        for part in plan.parts:
            write_report(out, _facts(part, scoring, board, seconds))
    except OSError as error:  # what was measured is to be shown all the same
        facts["unwritten"] = f"{out} cannot be written to ({error.strerror or error})."
    return facts


def _facts(plan: Plan, scoring: Scoring, board: Board, seconds: float) -> dict[str, Any]:
    outcomes = {run.run_name: board.outcomes[run.run_name] for run in plan.runs}
    cache = plan.request.cache
    caches = [cache, *map(str, plan.derived)]
    done = [run for run in plan.runs if not isinstance(outcomes[run.run_name], C2SError)]
    return {
        "grids": [
            {
                **grid_facts(grid, lines, outcomes, scoring.others),
                "unlike_paper": unlike_paper(grid, lines, scoring.dataset),
            }
            for grid, lines in plan.tables
        ],
        "scoring": {
            "dataset": scoring.dataset,
            "others": list(scoring.others),
            "split": scoring.split,
            "limit": scoring.limit,
        },
        "caches": {cache: {}, **{str(p): c for p, c in plan.derived.items()}},
        "teacher": teacher_time(caches, done),
        "failed": {name: str(o) for name, o in outcomes.items() if isinstance(o, C2SError)},
        "seconds": seconds,
    }
