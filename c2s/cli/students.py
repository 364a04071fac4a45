"""`c2s students`: what students there are, and what they cost."""

from __future__ import annotations

import json
from typing import Annotated

import typer

app = typer.Typer(help="List and show students.", no_args_is_help=True)
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("list")
def list_(json_: JsonOption = False) -> None:
    """List the students by name."""
    from c2s.students.registry import NAMES

    typer.echo(json.dumps(list(NAMES)) if json_ else "\n".join(NAMES))
