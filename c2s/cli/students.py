"""`c2s students`: what students there are, and what they cost."""

from __future__ import annotations

import json
from typing import Annotated

import typer

app = typer.Typer(help="List and show students.", no_args_is_help=True)
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DimOption = Annotated[
    int, typer.Option(min=8, max=1 << 16, help="Width of the features, that of the teacher.")
]
SizeOption = Annotated[int, typer.Option(min=1, max=1 << 16, help="Side of the input in pixels.")]


@app.command("list")
def list_(dim: DimOption = 512, size: SizeOption = 512, json_: JsonOption = False) -> None:
    """List the students and what they cost, and how to name models of other libraries."""
    from dataclasses import asdict

    from c2s.methods.cost import student_cost
    from c2s.students.adapters.libraries import LIBRARY_STUDENTS
    from c2s.students.registry import NAMES, names

    costs = {name: student_cost(name, dim, size) for name in NAMES}
    if json_:
        typer.echo(json.dumps([{"name": n, "dim": dim, **asdict(c)} for n, c in costs.items()]))
        return
    typer.echo(f"{'student':14}{'parameters':>12}{'in training':>13}{'GFLOPs':>9}")
    for name, cost in costs.items():
        own, training = (f"{n / 1e6:.2f} M" for n in (cost.parameters, cost.training_parameters))
        typer.echo(f"{name:14}{own:>12}{training:>13}{cost.gflops:9.2f}")
    if installed := names()[len(NAMES) :]:
        typer.echo(f"Of installed packages: {', '.join(installed)}", err=True)
    typer.echo(f"Models of other libraries: {', '.join(LIBRARY_STUDENTS.values())}", err=True)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Student, of c2s or of another library.")],
    dim: DimOption = 512,
    size: SizeOption = 512,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="key=value of its method, e.g. bridge=4 of prompted-clip; or classes=N."
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Show what a student costs: parameters, multiply-accumulates (GFLOPs as the field counts)."""
    from dataclasses import asdict

    from c2s.methods.cost import student_cost

    facts = {"name": name, "dim": dim, **asdict(student_cost(name, dim, size, set_ or ()))}
    if json_:
        typer.echo(json.dumps(facts))
        return
    for key, value in facts.items():
        typer.echo(f"{key:20} {value}")
