"""`c2s demo --method all`: every method at its best on one world, in one table."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from c2s.ablation.cell import Scoring
from c2s.ablation.live import run_grids
from c2s.ablation.plan import Request, make_plan
from c2s.ablation.workers import one_per_core
from c2s.bench.measure import Side, alternate
from c2s.config import merge
from c2s.datasets import load_dataset
from c2s.demo.cache import build_cache, passes_an_image
from c2s.demo.grids import main_table, stages_for, usual_recipe
from c2s.demo.picture import draw_predictions
from c2s.evaluation.evaluate import predictor
from c2s.evaluation.inference import Predictor
from c2s.methods.grid import Grid, Row, column
from c2s.methods.recipes import Recipe, load_recipe
from c2s.methods.registry import DEFAULT, METHODS, stages_of
from c2s.runs.run import open_run
from c2s.shapes.scenes import render
from c2s.terminal import print_table
from c2s_cache import C2SError, open_cache
from c2s_cache.receipt import write_atomic
from c2s_pipeline.stages.registry import known

RENAMED = "shapes-renamed"
"""The same scenes, their classes called by words that no training has seen."""
SCORES = {
    **{score: score for score in ("hIoU", "sIoU", "uIoU", "mIoU")},
    column(RENAMED): "mIoU, other words",
}
"""Of a run, and what the table calls them."""
OPEN = "open"
"""The recipe of C2S without labels, and its name in the table."""
TOWER = "tower"
"""The stage that a method reads whose student is CLIP's image tower."""
TIMED = 20
"""Scenes that a round of timing segments."""


@dataclass(frozen=True)
class Entrant:
    """One column of the table.

    Attributes:
        method: its name.
        grid: its only row is what is trained.
        recipe: of build and run.
    """

    method: str
    grid: Grid
    recipe: Recipe

    @property
    def title(self) -> str:
        """What the table calls it."""
        return OPEN if self.grid.rows[0].name == OPEN else self.method


def entrants(recipe: str | None = None) -> list[Entrant]:
    """Every method of c2s by the last row of its main table, and C2S without labels.

    Args:
        recipe: of all but the latter; default: each method's usual one.
    """
    found = []
    for method in METHODS:
        last = main_table(method)
        grid = last.model_copy(update={"rows": last.rows[-1:], "name": f"all-{method}"})
        chosen = load_recipe(recipe or usual_recipe(method), method)
        found.append(Entrant(method, grid, chosen))
        if method == DEFAULT:
            alone = Grid(name=f"all-{OPEN}", title="C2S without labels", rows=(Row(name=OPEN),))
            found.append(Entrant(method, alone, load_recipe(OPEN, method)))
    return found


def compare(
    seeds: int,
    out: Path,
    recipe: str | None = None,
    images: int | None = None,
    limit: int | None = None,
    settings: Sequence[str] = (),
) -> dict[str, Any]:
    """Build one cache for all methods and one of the same scenes without labels, train and score each method's full
    form, and set them side by side.

    Writes `out`/shapes.zarr and open.zarr, `out`/runs/, `out`/results.json, methods.md and methods.png, and a report
    of each method. What is there is reused.

    Args:
        seeds: runs per method, with seeds 0, 1, ...
        out: folder.
        recipe: settings of all methods, but of C2S without labels; default: each method's usual one.
        images: scenes of the caches; default: all of the split.
        limit: held-out scenes to score on; default: all.
        settings: "key=value" of the runs, above the recipe.

    Returns:
        What results.json holds.

    Raises:
        ConfigError: a method has no such recipe.
    """
    console, started = Console(stderr=True), time.monotonic()
    every = entrants(recipe)
    labelled = [e for e in every if e.grid.rows[0].name != OPEN]
    changes = dict[str, Any]()
    for entrant in labelled:
        changes = merge(changes, entrant.recipe.build)
    stages = [s for e in labelled for s in stages_for(e.method, [e.grid])]
    cache, alone = out / "shapes.zarr", out / "open.zarr"
    console.rule(f"1 of 3: the teacher's caches, once ({cache}, and {alone} without labels)")
    request, built = build_cache(cache, stages, changes, images)
    unlabelled = [s for s in stages_of([DEFAULT]) if not known()[s].annotates]
    _, without = build_cache(alone, unlabelled, load_recipe(OPEN).build, images)
    scoring, shown = Scoring("shapes", limit=limit, others=(RENAMED,)), dict[str, dict[str, Any]]()
    console.rule(f"2 of 3: {', '.join(e.title for e in every)}, from the caches")
    plans = [
        make_plan(
            [e.grid],
            Request(
                str(cache if e in labelled else alone),
                out,
                e.recipe,
                settings=settings,
                seeds=seeds,
                method=e.method,
            ),
        )
        for e in every
    ]
    reports = run_grids(plans, scoring, one_per_core())
    for entrant, plan, facts in zip(every, plans, reports, strict=True):
        where = Path(plan.request.cache)
        if facts["failed"]:
            raise C2SError(next(iter(facts["failed"].values())))
        (line,) = facts["grids"][0]["rows"]
        reads = plan.runs[0].method.learns_from(open_cache(where).manifest)
        shown[entrant.title] = {
            "method": entrant.method,
            "name": line["name"],
            "student": line["student"],
            "needs_labels": any(known()[stage].annotates for stage in reads),
            "needs_clip": TOWER in reads,
            "passes_an_image": round(passes_an_image(where, reads), 2),
            "runs": line["runs"],
        }
    runs = {title: Path(facts["runs"][0]["run"]) for title, facts in shown.items()}
    for title, cost in inference_costs(runs).items():
        shown[title] |= cost
    draw_predictions(runs, request, out / "methods.png", scenes=6)
    results = {
        "rows": list(_rows(shown)),
        "methods": [{k: v for k, v in facts.items() if k != "runs"} for facts in shown.values()],
        "build": {
            "images": built.rows,
            "built": built.built,
            "seconds": built.seconds,
            "seconds_without_labels": without.seconds,
        },
        "seconds": round(time.monotonic() - started, 1),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "open_clip_torch", "zarr", "numpy")},
        },
    }
    write_atomic(out / "results.json", (json.dumps(results, indent=2) + "\n").encode())
    lines = list(_lines(shown))
    write_atomic(out / "methods.md", markdown(list(shown), lines).encode())
    console.rule("3 of 3: the comparison")
    print_table(_table(list(shown), lines))
    return results


def inference_costs(runs: Mapping[str, Path]) -> dict[str, dict[str, float]]:
    """What it costs to segment a scene by each of some runs, as `c2s eval` does it: `parameters` of the student, frozen
    ones among them; `gmacs`, multiply-accumulates in units of 1e9; `ms`, median of alternating rounds."""
    data = load_dataset("shapes")
    models = {
        name: predictor(open_run(path), device="cpu", protocol=data.protocol)
        for name, path in runs.items()
    }
    scenes = [render("val", index).image for index in range(TIMED)]

    def side(model: Predictor) -> Side:
        return lambda: sum(model.predict(scene).size > 0 for scene in scenes)

    rates = alternate({name: side(model) for name, model in models.items()}, rounds=3)
    found = {}
    for name, model in models.items():
        # The counter follows what has gradients, and in inference mode there are none.
        model.model.requires_grad_(False)
        with FlopCounterMode(display=False) as counter:
            model.predict(scenes[0])
        found[name] = {
            "parameters": sum(p.numel() for p in model.model.parameters()),
            "gmacs": round(counter.get_total_flops() / 2e9, 4),
            "ms": round(1000 / rates[name].median, 2),
        }
    return found


def _rows(shown: Mapping[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One object for each method and seed."""
    for facts in shown.values():
        for run in facts["runs"]:
            scores = {key: value for key, value in run.items() if key != "run"}
            yield {"method": facts["method"], "name": facts["name"], **scores}


def _lines(shown: Mapping[str, dict[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """The lines of the table: what they say, and that of each method."""
    every = list(shown.values())
    yield "label maps", ["yes" if facts["needs_labels"] else "no" for facts in every]
    yield "CLIP at inference", ["yes" if facts["needs_clip"] else "no" for facts in every]
    yield "teacher passes an image", [f"{facts['passes_an_image']:.1f}" for facts in every]
    yield "parameters, M", [f"{facts['parameters'] / 1e6:.2f}" for facts in every]
    yield "GMACs an image", [f"{facts['gmacs']:.3f}" for facts in every]
    yield "ms an image", [f"{facts['ms']:.1f}" for facts in every]
    for score, name in SCORES.items():
        yield f"{name}, %", [_mean([run.get(score) for run in facts["runs"]], 1) for facts in every]
    yield "training, s", [_mean([run["seconds"] for run in facts["runs"]], 0) for facts in every]


def _mean(values: Sequence[float | None], digits: int) -> str:
    """Mean and standard deviation; a dash where there is nothing to measure."""
    there = [value for value in values if value is not None]
    if not there:
        return "-"
    mean = f"{fmean(there):.{digits}f}"
    return mean if len(there) == 1 else f"{mean} ± {stdev(there):.{digits}f}"


def markdown(titles: Sequence[str], lines: Sequence[tuple[str, Sequence[str]]]) -> str:
    """The table as Markdown."""
    head = [f"| | {' | '.join(titles)} |", f"|---|{'---|' * len(titles)}"]
    return (
        "\n".join([*head, *(f"| {name} | {' | '.join(values)} |" for name, values in lines)]) + "\n"
    )


def _table(titles: Sequence[str], lines: Sequence[tuple[str, Sequence[str]]]) -> Table:
    title = f"shapes val; {OPEN}: {DEFAULT} without labels; teacher passes are paid once"
    table = Table(title=title, box=box.SIMPLE, collapse_padding=True, pad_edge=False)
    table.add_column("", no_wrap=True)
    for title in titles:
        table.add_column(title, justify="right")
    for name, values in lines:
        table.add_row(name, *values)
    return table
