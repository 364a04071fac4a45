"""`c2s teachers`: what teachers there are, and what they are like."""

from __future__ import annotations

import json
from typing import Annotated

import typer

app = typer.Typer(help="List and show teachers.", no_args_is_help=True)
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_(json_: JsonOption = False) -> None:
    """List open_clip's models and the teachers of installed packages: which family, and why one is not accepted."""
    from dataclasses import asdict

    from c2s_pipeline.teachers.catalogue import catalogue

    entries = catalogue()
    if json_:
        typer.echo(json.dumps([asdict(entry) for entry in entries]))
        return
    width = max(len(entry.name) for entry in entries) + 2
    for entry in entries:
        typer.echo(f"{entry.name:{width}}{entry.family if entry.accepted else entry.why}")
    accepted = sum(entry.accepted for entry in entries)
    typer.echo(
        f"{accepted} of {len(entries)} are accepted. Others: local-dir:FOLDER, hf:OWNER/NAME, hf-hub:OWNER/NAME, "
        "python:MODULE:CLASS",
        err=True,
    )


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Teacher, as --teacher of a build takes it.")],
    json_: JsonOption = False,
) -> None:
    """Show a teacher's sizes, dense features, cost (GFLOPs as the field counts) and its weights' licences."""
    from dataclasses import asdict

    from c2s_pipeline.teachers.catalogue import card

    facts = asdict(card(name))
    if json_:
        typer.echo(json.dumps(facts))
        return
    weights = facts.pop("weights")
    for key, value in facts.items():
        shown = ", ".join(map(str, value)) if isinstance(value, tuple) else value
        typer.echo(f"{key:17} {'not known' if value is None else shown}")
    for tag, licence in weights.items():
        typer.echo(f"--pretrained {tag}: licence {licence or 'not known'}")
