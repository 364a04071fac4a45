"""The whole job on the Shapes world: build a cache, run the main tables of methods from it, compare."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from c2s.ablation.cell import Scoring
from c2s.ablation.live import run_grids
from c2s.ablation.plan import Request, make_plan
from c2s.ablation.report import grid_table
from c2s.ablation.workers import one_per_core
from c2s.config import merge
from c2s.demo.cache import build_cache
from c2s.demo.free_words import word_scores, words_table
from c2s.demo.gallery import draw_gallery, draw_ladder
from c2s.demo.grids import main_table, stages_for, usual_recipe
from c2s.demo.picture import draw_predictions
from c2s.demo.teacher_report import region_accuracy
from c2s.methods.recipes import load_recipe
from c2s.methods.registry import DEFAULT
from c2s.shapes.defaults import TEACHER_FOLDER
from c2s.terminal import print_table
from c2s_cache import C2SError
from c2s_cache.receipt import write_atomic


def run(
    seeds: int,
    out: Path,
    recipe: str | None = None,
    images: int | None = None,
    limit: int | None = None,
    settings: Sequence[str] = (),
    methods: Sequence[str] = (DEFAULT,),
) -> dict[str, Any]:
    """Build (or reuse) one cache, train and score every row of each method's main table, and write what came out.

    Writes `out`/shapes.zarr, `out`/runs/, `out`/results.json, the reports `out`/TABLE.md and .json, and of the first
    method `out`/predictions.png, gallery.png and ladder.png. Runs that are there are reused.

    Args:
        seeds: runs per row, with seeds 0, 1, ...
        out: folder.
        recipe: settings of all rows, and of the cache; default: each method's `best`, or else `paper`.
        images: scenes of the cache; default: all of the split.
        limit: held-out scenes to score on; default: all.
        settings: "key=value" of the runs, above the recipe.
        methods: whose.

    Returns:
        What results.json holds.

    Raises:
        ConfigError: a method that does not exist or has no table, or no such recipe.
    """
    console = Console(stderr=True)
    started = time.monotonic()
    named = {method: recipe or usual_recipe(method) for method in methods}
    recipes = {method: load_recipe(name, method) for method, name in named.items()}
    grids = {method: main_table(method) for method in methods}
    stages = [s for method, grid in grids.items() for s in stages_for(method, [grid])]
    cache, changes = out / "shapes.zarr", dict[str, Any]()
    for chosen in recipes.values():
        changes = merge(changes, chosen.build)
    console.rule(f"1 of 3: the teacher's cache, once ({cache})")
    request, built = build_cache(cache, stages, changes, images)
    teacher = {"folder": TEACHER_FOLDER.name, **region_accuracy(TEACHER_FOLDER, 200, "val")}
    found, tables = dict[str, Any](), []
    for method, grid in grids.items():
        console.rule(f"2 of 3: {grid.title}, {method}, recipe {named[method]}, from the cache")
        asked = Request(
            str(cache), out, recipes[method], settings=settings, seeds=seeds, method=method
        )
        scoring = Scoring("shapes", limit=limit, others=grid.on)
        (facts,) = run_grids([make_plan([grid], asked)], scoring, one_per_core())
        if facts["failed"]:
            raise C2SError(next(iter(facts["failed"].values())))
        (found[method],) = facts["grids"]
        tables.append(grid_table(found[method], facts["scoring"]))
    shown = next(iter(found.values()))["rows"]
    last = shown[-1]
    words = word_scores([Path(run["run"]) for run in last["runs"]], limit)
    results: dict[str, Any] = {
        "recipe": ", ".join(dict.fromkeys(named.values())),
        "rows": [row for method, grid in found.items() for row in _rows(method, grid)],
        "build": {"images": built.rows, "built": built.built, "seconds": built.seconds},
        "teacher": teacher,
        "by_words": words,
        "seconds": round(time.monotonic() - started, 1),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "open_clip_torch", "zarr", "numpy")},
        },
    }
    write_atomic(out / "results.json", (json.dumps(results, indent=2) + "\n").encode())
    runs = {row["name"]: Path(row["runs"][0]["run"]) for row in shown}
    draw_predictions(runs, request, out / "predictions.png")
    draw_gallery(runs[last["name"]], request, out / "gallery.png")
    draw_ladder(shown, out / "ladder.png")
    console.rule("3 of 3: the comparison")
    for table in (*tables, words_table(words, last["name"])):
        print_table(table)
    papers = (f"{grid['title']}: {grid['paper']}. " for grid in found.values() if grid["paper"])
    Console().print(
        f"The papers' figures: {''.join(papers)}Ours: a small student and 16 classes, 4 of them unseen; its teacher "
        f"names {teacher['region_top1']:.1f} % of held-out regions.",
        highlight=False,
    )
    return results


def _rows(method: str, grid: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One object for each row and seed."""
    return [
        {"method": method, "name": row["name"], **{k: v for k, v in run.items() if k != "run"}}
        for row in grid["rows"]
        for run in row["runs"]
    ]
