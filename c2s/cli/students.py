"""`c2s students`: what students there are, and what they cost."""

from __future__ import annotations

import json
from typing import Annotated

import typer

app = typer.Typer(help="List and show students.", no_args_is_help=True)
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("list")
def list_(json_: JsonOption = False) -> None:
    """List the students by name, and how to name models of other libraries."""
    from c2s.students.registry import FORMS, NAMES

    typer.echo(json.dumps(list(NAMES)) if json_ else "\n".join(NAMES))
    typer.echo(f"Models of other libraries: {', '.join(FORMS.values())}", err=True)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Student, of c2s or of another library.")],
    dim: Annotated[int, typer.Option(help="Width of the features, that of the teacher.")] = 512,
    size: Annotated[int, typer.Option(help="Side of the input in pixels.")] = 512,
    json_: JsonOption = False,
) -> None:
    """Show what a student costs: parameters, multiply-accumulates (GFLOPs as the field counts)."""
    from dataclasses import asdict

    from c2s.students.cost import student_cost

    facts = {"name": name, "dim": dim, **asdict(student_cost(name, dim, size))}
    if json_:
        typer.echo(json.dumps(facts))
        return
    for key, value in facts.items():
        typer.echo(f"{key:20} {value}")
