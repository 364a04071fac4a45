"""`c2s eval`: zero-shot metrics of a run on a labelled split."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Mode(StrEnum):
    """How an image is fed to the student."""

    slide = "slide"
    whole = "whole"


def evaluate(
    run: Annotated[Path, typer.Option(help="Run folder.")],
    dataset: Annotated[str, typer.Option(help="Data set: see c2s data list.")],
    root: Annotated[
        Path | None,
        typer.Option(help="Folder of the data set, or the one that holds it [C2S_DATA]."),
    ] = None,
    split: Annotated[str, typer.Option(help="Split to evaluate on.")] = "val",
    mode: Annotated[Mode, typer.Option(help="Sliding window, or whole images.")] = Mode.slide,
    seen_offset: Annotated[
        float, typer.Option(help="Subtracted from the cosines of seen classes.")
    ] = 0.0,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N images.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    out: Annotated[
        Path | None, typer.Option(help="Also write the result there, as .json or per-class .csv.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Evaluate a run over all classes: sIoU, uIoU, hIoU, pAcc and the IoU of every class."""
    from c2s.cli.progress import bar
    from c2s.datasets import load_dataset
    from c2s.evaluation.evaluate import check_classes
    from c2s.evaluation.evaluate import evaluate as measure
    from c2s.training.run_folder import open_run
    from c2s_cache.errors import ConfigError

    if out is not None and out.suffix not in (".json", ".csv"):
        raise ConfigError(f"--out {out} must end in .json or .csv.")
    data = load_dataset(dataset, root)
    opened = open_run(run)
    check_classes(opened, data.classes, dataset)
    items = list(data.split(split))[:limit]
    with bar("evaluate", len(items), "images") as advance:
        result = measure(opened, items, mode.value, seen_offset, device, advance)
    facts = {"run": str(run), "dataset": dataset, "split": split, "mode": mode.value}
    if out is not None and out.suffix == ".csv":
        result.write_csv(out)
    elif out is not None:
        out.write_text(json.dumps(facts | result.as_dict(), indent=2) + "\n")
    if json_:
        typer.echo(json.dumps(facts | result.as_dict()))
    else:
        from rich.console import Console

        from c2s.evaluation.table import result_table

        Console().print(result_table(result))
