"""The whole job on the Shapes world: build a cache, train the four rows of Table IV, compare."""

from __future__ import annotations

import json
import platform
import time
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table

from c2s.cli.progress import BuildBar, bar
from c2s.datasets import load_dataset
from c2s.demo.defaults import BUILD, TEACHER_FOLDER
from c2s.demo.picture import draw_predictions
from c2s.demo.recipe import PAPER, ROWS, train_config
from c2s.demo.teacher_report import region_accuracy
from c2s.evaluation.evaluate import evaluate
from c2s.training.run import train
from c2s.training.run_folder import open_run
from c2s_cache.receipt import write_atomic
from c2s_pipeline.build import build
from c2s_pipeline.request import BuildRequest

SCORES = ("sIoU", "uIoU", "hIoU")


def run(seeds: int, out: Path, rows: tuple[str, ...] = tuple(ROWS)) -> dict[str, Any]:
    """Build (or reuse) the cache, train and score every row, and write what came out.

    Writes `out`/shapes.zarr, `out`/runs/, `out`/results.json and `out`/predictions.png.

    Args:
        seeds: runs per row, with seeds 0, 1, ...
        out: folder.
        rows: which rows of the table.

    Returns:
        What results.json holds.
    """
    console = Console(stderr=True)
    started = time.monotonic()
    data = load_dataset("shapes")
    cache = out / "shapes.zarr"
    console.rule(f"1 of 3: the teacher's cache, once ({cache})")
    request = BuildRequest.model_validate(BUILD)
    with BuildBar() as progress:
        report = build(data.split("train"), request, cache, progress=progress)
    teacher = {"folder": TEACHER_FOLDER.name, **region_accuracy(TEACHER_FOLDER, 200, "val")}
    scores: dict[str, list[dict[str, float]]] = {row: [] for row in rows}
    for seed in range(seeds):
        for number, row in enumerate(rows, 1):
            console.rule(f"2 of 3: {row} ({number} of {len(rows)}), seed {seed}, from the cache")
            scores[row].append(_train_and_score(row, cache, seed, out / "runs"))
    results: dict[str, Any] = {
        "rows": [_summary(row, per_seed) for row, per_seed in scores.items()],
        "build": {"images": report.rows, "built": report.built, "seconds": report.seconds},
        "teacher": teacher,
        "seconds": round(time.monotonic() - started, 1),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "open_clip_torch", "zarr", "numpy")},
        },
    }
    write_atomic(out / "results.json", (json.dumps(results, indent=2) + "\n").encode())
    if {"baseline", "both"} <= set(rows):
        draw_predictions(out / "runs", out / "predictions.png")
    console.rule("3 of 3: the comparison")
    Console().print(results_table(results))
    return results


def _train_and_score(row: str, cache: Path, seed: int, runs: Path) -> dict[str, float]:
    """Train one run and score it on the held-out scenes, over all classes; in per cent."""
    began = time.monotonic()
    path = train(train_config(row, cache, seed, runs), overwrite=True)
    trained = time.monotonic() - began
    items = load_dataset("shapes").split("val")
    with bar("scoring", len(items), "images") as advance:
        result = evaluate(open_run(path), items, "whole", device="cpu", advance=advance).as_dict()
    return {"seed": seed, **{k: result[k] for k in SCORES}, "seconds": round(trained, 1)}


def _summary(row: str, per_seed: list[dict[str, float]]) -> dict[str, Any]:
    """Means over the seeds, their spread (standard deviation), and every seed's values."""
    means = {k: round(fmean(s[k] for s in per_seed), 2) for k in (*SCORES, "seconds")}
    if len(per_seed) == 1:
        return {"name": row, **means}
    spread = {k: round(stdev(s[k] for s in per_seed), 2) for k in SCORES}
    return {"name": row, **means, "spread": spread, "seeds": per_seed}


def results_table(results: dict[str, Any]) -> Table:
    """Our rows beside those of the paper's Table IV."""
    table = Table(title="Shapes: 12 seen and 4 unseen classes; beside it the paper's Table IV")
    table.add_column("row", no_wrap=True)
    for column in (*SCORES, "seconds", "paper: s / u / h"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in results["rows"]:
        spread = row.get("spread", {})
        ours = [f"{row[k]:.1f}" + (f"±{spread[k]:.1f}" if spread else "") for k in SCORES]
        paper = " / ".join(f"{value:.1f}" for value in PAPER[row["name"]])
        table.add_row(row["name"], *ours, f"{row['seconds']:.0f}", paper)
    table.caption = (
        "paper: COCO-Stuff, SegFormer-B4, 40 k iterations. Ours: a small student, "
        f"whose teacher names {results['teacher']['region_top1']:.1f} % of held-out regions."
    )
    return table
