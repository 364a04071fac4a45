"""One table of all methods: what each needs, what it costs, and what it gives."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.table import Table

from c2s.datasets.split import LabelledImage
from c2s.evaluation.evaluate import predictor
from c2s.methods.registry import method_class
from c2s.runs.run import Run, open_run
from c2s_cache import Cache, open_cache
from c2s_pipeline.stages.registry import closed, known, recorded_stages

SCORES = ("hIoU", "sIoU", "uIoU", "mIoU")
TIMED = 32
"""Images that are segmented one by one to see how long one takes."""
COLUMNS = (
    *("method", "annotation", "CLIP at inference", "teacher passes an image", "parameters"),
    *("multiply-accumulates", "ms an image", *SCORES, "training s"),
)


def method_facts(
    method: str, row: Mapping[str, Any], items: Sequence[LabelledImage]
) -> dict[str, Any]:
    """What is known of a method from a row of its table, JSON values.

    Args:
        method: its name.
        row: of `c2s.ablation.report.grid_facts`, with at least one run.
        items: images to time the student on.

    Returns:
        `method`, `name` of the row, `student`; `annotated` and `clip`, whether it learnt from label maps, and whether
        its student has the teacher's tower; `passes` through the teacher for an image of the cache; `parameters`;
        `macs` of a pass over one training view; `ms` for an image; `SCORES` in per cent and `seconds` of training,
        means over the runs.
    """
    run = open_run(Path(row["runs"][0]["run"]), allow_code=True)
    cache = open_cache(run.config.cache)
    stages = closed(run.config.method.read_stages())
    scores = {k: [r[k] for r in row["runs"] if r[k] is not None] for k in (*SCORES, "seconds")}
    return {
        "method": method,
        "name": row["name"],
        "student": row["student"],
        "annotated": any(
            known()[name].annotates
            for name in closed((*stages, *method_class(method).beside))
            if name in cache.manifest.stage_names
        ),
        "clip": run.student.clip,
        "passes": round(passes(cache, stages), 1),
        "parameters": sum(p.numel() for p in run.student.parameters()),
        "macs": multiply_accumulates(run),
        "ms": round(milliseconds(run, items), 2),
        **{k: round(fmean(v), 2) if v else None for k, v in scores.items()},
    }


def passes(cache: Cache, stages: Sequence[str]) -> float:
    """Images that went through the teacher's tower for some stages of a cache, per image of it."""
    made: dict[str, int] = {}
    for name, stage in recorded_stages(cache.manifest).items():
        if name in stages:
            made |= stage.passes(cache)
    return sum(made.values()) / cache.manifest.rows


def multiply_accumulates(run: Run) -> int:
    """Of one training view and the run's own classes: convolutions and matrix products."""
    from torch.utils.flop_counter import FlopCounterMode

    side = run.config.image_size or run.info.view_size
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run.student.classify(torch.zeros(1, 3, side, side), torch.from_numpy(run.embeddings))
    return int(counter.get_total_flops()) // 2


def milliseconds(run: Run, items: Sequence[LabelledImage]) -> float:
    """To segment an image on a CPU, one at a time; the median."""
    model = predictor(run, device="cpu", mode="whole")
    took = []
    for item in items[:TIMED]:
        image, _ = item.read()
        began = time.perf_counter()
        model.predict(image, item.id)
        took.append(time.perf_counter() - began)
    return 1000 * sorted(took)[len(took) // 2]


def methods_table(facts: Sequence[Mapping[str, Any]]) -> Table:
    """The table for a terminal."""
    table = Table(title="Methods on one cache, scores in %")
    for number, name in enumerate(COLUMNS):
        table.add_column(name, justify="right" if number else "left")
    for row in facts:
        table.add_row(*_texts(row))
    return table


def _texts(row: Mapping[str, Any]) -> list[str]:
    named = row["method"] if row["name"] is None else f"{row['method']}: {row['name']}"
    return [
        named,
        "yes" if row["annotated"] else "no",
        "yes" if row["clip"] else "no",
        f"{row['passes']:.1f}",
        f"{row['parameters'] / 1e6:.2f} M",
        f"{row['macs'] / 1e6:.0f} M",
        f"{row['ms']:.1f}",
        *("-" if row[k] is None else f"{row[k]:.1f}" for k in SCORES),
        "-" if row["seconds"] is None else f"{row['seconds']:.0f}",
    ]
