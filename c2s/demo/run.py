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
from c2s.config import merge, resolve
from c2s.datasets import load_dataset
from c2s.demo.free_words import word_scores, words_table
from c2s.demo.gallery import draw_gallery, draw_ladder
from c2s.demo.picture import draw_predictions
from c2s.demo.teacher_report import region_accuracy
from c2s.methods.grid import Grid
from c2s.methods.recipes import load_recipe, recipe_names
from c2s.methods.registry import DEFAULT, method_class, method_config, stages_of
from c2s.shapes.defaults import BUILD, TEACHER_FOLDER
from c2s.terminal import BuildBar, print_table
from c2s_cache import C2SError, ConfigError
from c2s_cache.receipt import write_atomic
from c2s_pipeline.build.builder import build
from c2s_pipeline.build.request import request_model


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
    named = {method: recipe or _usual(method) for method in methods}
    recipes = {method: load_recipe(name, method) for method, name in named.items()}
    grids = {method: _main_table(method) for method in methods}
    cache, changes = out / "shapes.zarr", dict[str, Any]()
    for chosen in recipes.values():
        changes = merge(changes, chosen.build)
    console.rule(f"1 of 3: the teacher's cache, once ({cache})")
    asked_for = {**changes, "limit": images, "stages": _stages(grids)}
    request = resolve(request_model(), BUILD, None, (), asked_for)
    with BuildBar() as progress:
        built = build(load_dataset("shapes").split("train"), request, cache, progress=progress)
    teacher = {"folder": TEACHER_FOLDER.name, **region_accuracy(TEACHER_FOLDER, 200, "val")}
    scoring, found, tables = Scoring("shapes", limit=limit), {}, []
    for method, grid in grids.items():
        console.rule(f"2 of 3: {grid.title}, {method}, recipe {named[method]}, from the cache")
        asked = Request(
            str(cache), out, recipes[method], settings=settings, seeds=seeds, method=method
        )
        facts = run_grids(make_plan([grid], asked), asked, scoring)
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


def _usual(method: str) -> str:
    return "best" if "best" in recipe_names(method) else "paper"


def _stages(grids: Mapping[str, Grid]) -> tuple[str, ...]:
    """What methods are built with, and rows read beside it."""
    rows = [
        (method, row.train.get("method", {})) for method, grid in grids.items() for row in grid.rows
    ]
    read = [method_config({"name": method, **own}).read_stages() for method, own in rows]
    return tuple(dict.fromkeys((*stages_of(grids), *(s for stages in read for s in stages))))


def _main_table(method: str) -> Grid:
    tables = method_class(method).tables()
    if not tables:
        raise ConfigError(f"The method {method} has no table to run.")
    return next(iter(tables.values()))


def _rows(method: str, grid: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One object for each row and seed."""
    return [
        {"method": method, "name": row["name"], **{k: v for k, v in run.items() if k != "run"}}
        for row in grid["rows"]
        for run in row["runs"]
    ]
