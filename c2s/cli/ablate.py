"""`c2s ablate`: a grid of runs from one cache, such as a table of the paper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from c2s.cli.options import ALLOW_CODE
from c2s_cache.errors import C2SError, ConfigError

if TYPE_CHECKING:
    from c2s.methods.grid import Grid


def ablate(
    cache: Annotated[str, typer.Option(help="Cache to train from: directory or URL.")],
    method: Annotated[
        str, typer.Option(help="Whose tables and runs, or python:MODULE:CLASS.")
    ] = "clip-to-seg",
    table: Annotated[
        list[str] | None,
        typer.Option(
            help="Table of the method's paper (of C2S IV to XI, of GKC 4 to 7b), or all. Repeatable."
        ),
    ] = None,
    grid: Annotated[
        list[Path] | None, typer.Option(help="YAML file of rows of your own. Repeatable.")
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="Settings of all rows, such as paper or best.")
    ] = "paper",
    student: Annotated[
        list[str] | None,
        typer.Option(help="Student [default: the one that suits the data set]. Repeatable."),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Seeds per row [default: the grid's, else 1]."),
    ] = None,
    iterations: Annotated[int | None, typer.Option(help="Iterations per run.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per iteration.")] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Data set to score on [default: the cache's].")
    ] = None,
    on: Annotated[
        list[str] | None,
        typer.Option(help="Further data set to score on, by the names of its classes. Repeatable."),
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="Its folder, or the one that holds it [C2S_DATA].")
    ] = None,
    split: Annotated[
        str, typer.Option(help="Split to score on; choose settings on `dev`.")
    ] = "val",
    limit: Annotated[int | None, typer.Option(min=1, help="Score only the first N images.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings of all rows.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, e.g. method.tau=0.05.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="Of caches to derive: open_clip model or local-dir, if it moved."),
    ] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="Its weight tag or file, if it moved.")
    ] = None,
    allow_code: Annotated[bool, typer.Option("--allow-code", help=ALLOW_CODE)] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1000,
            help="Runs side by side, each with its share of the cores [default: one per GPU, or 1].",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of runs, derived caches and reports.")] = Path(
        "runs/ablate"
    ),
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train and score every row of a grid with every student and seed, and set the paper's rows beside.

    Runs that are finished are not repeated and stopped ones go on, so the same command resumes; equal
    rows of several tables are one run. One run at a time, or one per GPU where there are several, unless `--jobs` says
    how many.
    """
    from c2s.ablation.cell import Scoring, stored_scores
    from c2s.ablation.live import run_grids
    from c2s.ablation.plan import Request, make_plan
    from c2s.cli.folders import check_folder
    from c2s.cli.train import say_doubts
    from c2s.methods.recipes import load_recipe
    from c2s.students.registry import require_no_code
    from c2s_cache.manifest_file import read_manifest

    check_folder(out)
    grids = _grids(method, table or [], grid or [])
    request = Request(
        cache,
        out,
        load_recipe(recipe, method),
        config,
        tuple(set_ or ()),
        {"iterations": iterations, "batch_size": batch_size},
        method,
        tuple(student or ()),
        seeds,
        teacher,
        pretrained,
        allow_code,
    )
    manifest = read_manifest(cache)
    others = tuple(dict.fromkeys((*(on or ()), *(name for grid in grids for name in grid.on))))
    if not manifest.classes and dataset is None:
        raise ConfigError(
            f"{cache} has no classes to score by.",
            "Say which labelled data set to score on, by the names of its classes: --dataset NAME --root DIR",
        )
    scoring = Scoring(dataset or manifest.dataset, root, split, limit, others)
    plan = make_plan(grids, request)
    for settings in plan.runs:
        asked = settings.student in (student or ()) or f"student={settings.student}" in (set_ or ())
        require_no_code(settings.student, "A file of settings or rows", allow_code or asked)
    unscored = any(stored_scores(settings, scoring) is None for settings in plan.runs)
    if manifest.classes and unscored and scoring.images()[0].classes != manifest.classes:
        raise ConfigError(f"{scoring.dataset} has other classes than the cache {cache}.")
    if unscored:
        say_doubts(plan.runs, cache)
    (facts,) = run_grids([plan], scoring, jobs)
    if json_:
        typer.echo(json.dumps(facts))
    else:
        _print(facts)
    if "unwritten" in facts:
        raise C2SError(
            facts["unwritten"], "Make room there; the same command then writes the reports."
        )
    if failed := len(facts["failed"]):
        raise C2SError(
            f"{failed} {'run' if failed == 1 else 'runs'} failed; the report says why.",
            "The same command tries them again.",
        )


def _grids(method: str, tables: list[str], files: list[Path]) -> list[Grid]:
    from c2s.methods.grid import read_grid
    from c2s.methods.registry import method_class

    known = method_class(method).tables()
    names = list(known) if "all" in tables else []
    for asked in tables:
        found = [n for n in known if asked.upper() in (n.upper(), n.rstrip("ab"))]
        if asked != "all" and not found:
            raise ConfigError(
                f"the paper has no ablation table {asked!r}.",
                f"Tables: {', '.join([*known, 'all']) if known else 'none'}.",
            )
        names += [name for name in found if name not in names]
    if not names and not files:
        raise ConfigError("c2s ablate needs --table NAME or --grid FILE.")
    return [*(known[name] for name in names), *(read_grid(file) for file in files)]


def _print(facts: dict[str, Any]) -> None:
    from rich.console import Console

    from c2s.ablation.report import costs, grid_table
    from c2s.terminal import print_table

    console = Console()
    for grid in facts["grids"]:
        print_table(grid_table(grid, facts["scoring"]))
    for line in costs(facts):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
