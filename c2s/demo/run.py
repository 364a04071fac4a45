"""The whole job on the Shapes world: build a cache, run the paper's Table IV from it, compare."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from c2s.ablation.cell import Scoring
from c2s.ablation.live import run_grids
from c2s.ablation.plan import Request, make_plan
from c2s.ablation.report import grid_table
from c2s.ablation.tables import TABLES
from c2s.config import resolve
from c2s.datasets import load_dataset
from c2s.demo.picture import draw_predictions
from c2s.demo.teacher_report import region_accuracy
from c2s.evaluation.paper import SCORES
from c2s.recipes import load_recipe
from c2s.shapes.defaults import BUILD, TEACHER_FOLDER
from c2s.terminal import BuildBar, print_table
from c2s_cache import C2SError
from c2s_cache.receipt import write_atomic
from c2s_pipeline.build import build
from c2s_pipeline.request import BuildRequest


def run(
    seeds: int,
    out: Path,
    recipe: str = "best",
    images: int | None = None,
    limit: int | None = None,
    settings: Sequence[str] = (),
) -> dict[str, Any]:
    """Build (or reuse) the cache, train and score every row, and write what came out.

    Writes `out`/shapes.zarr, `out`/runs/, `out`/results.json, `out`/predictions.png, and the report
    `out`/table-IV.md and .json. Runs that are there are reused.

    Args:
        seeds: runs per row, with seeds 0, 1, ...
        out: folder.
        recipe: settings of all rows, and of the cache.
        images: scenes of the cache; default: all of the split.
        limit: held-out scenes to score on; default: all.
        settings: "key=value" of the runs, above the recipe.

    Returns:
        What results.json holds.
    """
    console = Console(stderr=True)
    started = time.monotonic()
    cache, chosen = out / "shapes.zarr", load_recipe(recipe)
    console.rule(f"1 of 3: the teacher's cache, once ({cache})")
    request = resolve(BuildRequest, BUILD, None, (), {**chosen.build, "limit": images})
    with BuildBar() as progress:
        built = build(load_dataset("shapes").split("train"), request, cache, progress=progress)
    teacher = {"folder": TEACHER_FOLDER.name, **region_accuracy(TEACHER_FOLDER, 200, "val")}
    console.rule(f"2 of 3: the rows of Table IV, recipe {recipe}, from the cache")
    asked = Request(str(cache), out, chosen, settings=settings, seeds=seeds)
    scoring = Scoring("shapes", limit=limit)
    facts = run_grids(make_plan([TABLES["IV"]], asked), asked, scoring)
    if facts["failed"]:
        raise C2SError(next(iter(facts["failed"].values())))
    grid = facts["grids"][0]
    results: dict[str, Any] = {
        "recipe": recipe,
        "rows": [_summary(row) for row in grid["rows"]],
        "build": {"images": built.rows, "built": built.built, "seconds": built.seconds},
        "teacher": teacher,
        "seconds": round(time.monotonic() - started, 1),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "open_clip_torch", "zarr", "numpy")},
        },
    }
    write_atomic(out / "results.json", (json.dumps(results, indent=2) + "\n").encode())
    runs = {row["name"]: Path(row["runs"][0]["run"]) for row in grid["rows"]}
    draw_predictions(runs, request, out / "predictions.png")
    console.rule("3 of 3: the comparison")
    print_table(grid_table(grid, facts["scoring"]))
    Console().print(
        "paper: COCO-Stuff, SegFormer-B4, 40 k iterations. Ours: a small student and 16 classes, 4 of "
        f"them unseen; its teacher names {teacher['region_top1']:.1f} % of held-out regions.",
        highlight=False,
    )
    return results


def _summary(row: dict[str, Any]) -> dict[str, Any]:
    """Means over the seeds and, from two on, their spread (standard deviation) and every seed's values."""
    means = {"name": row["name"], **{k: row[k] for k in (*SCORES, "seconds")}}
    if len(row["runs"]) == 1:
        return means
    spread = {k: row["spread"][k] for k in SCORES}
    return {**means, "spread": spread, "seeds": row["runs"]}
