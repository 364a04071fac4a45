"""`c2s data`: what data sets there are, and what is in them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="List and show data sets.", no_args_is_help=True)
RootOption = Annotated[
    Path | None,
    typer.Option(help="Folder of the data set, or the one that holds it [C2S_DATA]."),
]
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
    typer.echo(
        "./FOLDER       your own: images/, masks/ and classes.yaml (c2s data check ./FOLDER)"
    )


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Data set, or your own folder with a classes.yaml.")],
    root: RootOption = None,
    split_file: Annotated[
        Path | None, typer.Option(help="YAML file with `unseen:`, class names or ids.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Show the classes of a data set, which of them are unseen, and where to get it."""
    from c2s.datasets import load_dataset

    ds = load_dataset(name, root, split_file)
    splits = ds.descriptor.splits if ds.descriptor else {}
    expected = {split: list(layout.expected) for split, layout in splits.items()}
    download = ds.descriptor.download if ds.descriptor else "nothing: scenes are drawn on demand"
    if json_:
        facts = {
            "name": ds.name,
            "classes": list(ds.classes),
            "unseen": list(ds.unseen),
            "prompts": list(ds.prompts),
            "splits": list(ds.splits),
            "expected": expected,
            "protocol": dataclasses.asdict(ds.protocol),
            "root": str(ds.root) if ds.root else None,
            "download": download,
        }
        typer.echo(json.dumps(facts))
        return
    for i, (class_name, prompt) in enumerate(zip(ds.classes, ds.prompts, strict=True)):
        notes = [f'"{prompt}"'] * (prompt != class_name) + ["unseen"] * (i in ds.unseen)
        typer.echo(f"{i:4}  {class_name:20} {', '.join(notes)}".rstrip())
    for split in ds.splits:
        counts = " or ".join(f"{count:,}" for count in expected.get(split, []))
        typer.echo(f"split {split}{f': {counts} images' if counts else ''}")
    typer.echo(f"folder: {ds.root or 'not said'}")
    typer.echo(f"needs {download}")
