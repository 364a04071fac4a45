"""`c2s data`: what data sets there are, and what is in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="List and show data sets.", no_args_is_help=True)
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("list")
def list_(json_: JsonOption = False) -> None:
    """List the data sets by name."""
    from c2s.datasets import NAMES, load_dataset

    rows = [(name, load_dataset(name)) for name in NAMES]
    if json_:
        typer.echo(json.dumps([name for name, _ in rows]))
        return
    for name, ds in rows:
        typer.echo(f"{name:14} {len(ds.classes):4} classes, {len(ds.unseen):3} unseen")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Data set name.")],
    root: Annotated[Path | None, typer.Option(help="Folder of the data set.")] = None,
    json_: JsonOption = False,
) -> None:
    """Show the classes of a data set, and which of them are unseen."""
    from c2s.datasets import load_dataset

    ds = load_dataset(name, root)
    if json_:
        facts = {"name": ds.name, "classes": list(ds.classes), "unseen": list(ds.unseen)}
        typer.echo(json.dumps({**facts, "splits": list(ds.splits)}))
        return
    for i, class_name in enumerate(ds.classes):
        typer.echo(f"{i:4}  {class_name}{'  (unseen)' if i in ds.unseen else ''}")
