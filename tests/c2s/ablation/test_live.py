"""The table of a grid that runs."""

from __future__ import annotations

import io
from types import SimpleNamespace

from rich.console import Console

from c2s.ablation import live


def test_names_are_shown_as_they_are(monkeypatch):
    """A student or row may be called what a terminal's markup looks like."""
    line = SimpleNamespace(row=SimpleNamespace(name="[red]row"), student="a[/]", runs=["run"])
    plan = SimpleNamespace(
        derived={}, labels=dict, tables=[(SimpleNamespace(name="[bold]"), [line])]
    )
    board = SimpleNamespace(plans=[plan], state=lambda run: "[1]")
    out = io.StringIO()

    def console(**options):
        return Console(**options | {"file": out, "force_terminal": True, "width": 80})

    monkeypatch.setattr(live, "Console", console)

    def ablate(plans, scoring, watch, jobs):
        watch(board)
        return [{}]

    monkeypatch.setattr(live, "ablate", ablate)
    live.run_grids([plan], None)
    for shown in ("[bold]", "[red]row", "a[/]", "[1]"):
        assert shown in out.getvalue()
