"""What `c2s cache plan` shows."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import typer
from rich.table import Table

from c2s.terminal import print_table
from c2s_pipeline.build.plan import GIB, DoesNotFit, Plan


def report_plan(plan: Plan, out: Path, as_json: bool) -> None:
    """Print a plan, then refuse it if it does not fit.

    Args:
        plan: the projected build.
        out: where the cache is to be.
        as_json: print one JSON object instead of a table.

    Raises:
        DoesNotFit: after printing.
    """
    problem = None
    try:
        plan.check(out)
    except DoesNotFit as error:
        problem = error
    if as_json:
        typer.echo(json.dumps(_facts(plan, problem)))
    else:
        print_table(_table(plan))
    if problem is not None:
        raise problem


def _facts(plan: Plan, problem: DoesNotFit | None) -> dict[str, object]:
    stages = {
        s.stage: {"hours": round(s.hours, 4), "bytes": s.bytes, "teacher_passes": s.passes}
        for s in plan.stages
    }
    return {
        "images": plan.images,
        "sampled": plan.sampled,
        "workers": plan.workers,
        "hours": round(plan.hours, 4),
        "bytes": plan.bytes,
        "choices": {key: dict(sizes) for key, sizes in plan.choices.items()},
        "teacher_passes": sum(s.passes for s in plan.stages),
        "memory_bytes_per_worker": plan.memory,
        "gpu_memory_bytes": plan.gpu_memory,
        "stages": stages,
        "fits": problem is None,
    }


def _table(plan: Plan) -> Table:
    table = Table(title=f"{plan.images} images, projected from a trial of {plan.sampled}")
    table.add_column("stage")
    for column in ("teacher passes", "time", "GiB"):
        table.add_column(column, justify="right", no_wrap=True)
    for s in plan.stages:
        table.add_row(s.stage, f"{s.passes}", _time(s.hours), f"{s.bytes / GIB:.3f}")
    table.add_section()
    passes = sum(s.passes for s in plan.stages)
    table.add_row("all", f"{passes}", _time(plan.hours), f"{plan.bytes / GIB:.3f}", style="bold")
    held = f"{plan.memory / GIB:.1f} GiB of memory each"
    if plan.gpu_memory:
        held += f", {plan.gpu_memory / GIB:.1f} GiB on the GPU"
    costs = "".join(
        f"{key}: {', '.join(f'{value} {size / GIB:.3f} GiB' for value, size in sizes.items())}. "
        for key, sizes in plan.choices.items()
    )
    table.caption = (
        f"{costs}{plan.workers} worker{'s' if plan.workers > 1 else ''}, {held}. The time is an estimate: "
        "what the trial took on this machine as it is now, one thing after another. A build reads, asks the teacher "
        "and writes at the same time; on a machine that gets busier it takes longer."
    )
    return table


def _time(hours: float) -> str:
    return str(timedelta(seconds=round(3600 * hours)))
