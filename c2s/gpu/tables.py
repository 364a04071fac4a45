"""gpu.md: the tables for docs/benchmarks.md.

A step's figures are a flat mapping of names to values. `rows`, if there, is a list of mappings that makes a
table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from c2s.gpu.steps import MACHINE, SETUP, STEPS

HIDDEN = {SETUP.name, MACHINE.name}


def markdown(facts: Mapping[str, Any]) -> str:
    """The text of gpu.md for the object of gpu.json."""
    machine, steps = facts["machine"], facts["steps"]
    what = {step.name: step.what for step in (SETUP, MACHINE, *STEPS)}
    parts = [f"# What a GPU shows: {machine.get('card') or 'a rehearsal without one'}", ""]
    if not machine.get("card"):
        parts += ["Small sizes on a CPU: these figures say nothing of a GPU.", ""]
    parts += [_line(machine), "", "## Steps", ""]
    rows = [
        {
            "step": name,
            "shows": what.get(name, ""),
            "state": step["state"],
            "s": step.get("seconds"),
            "processor s": step.get("processor_seconds"),
            "MiB": step.get("peak_memory_mib"),
            "GPU MiB": step.get("gpu_peak_memory_mib"),
            "": step.get("sentence", ""),
        }
        for name, step in steps.items()
    ]
    parts += [*table(rows), ""]
    for name, step in steps.items():
        if step.get("figures") and name not in HIDDEN:
            parts += [f"## {name}: {what.get(name, '')}", "", *_figures(name, step), ""]
    return "\n".join(parts)


def _figures(name: str, step: Mapping[str, Any]) -> list[str]:
    figures = dict(step["figures"])
    rows = figures.pop("rows", [])
    parts = [*table(rows), ""] if rows else []
    parts += [_line(figures), ""] if figures else []
    where = [step.get("on") or "CPU", f"commit {step.get('commit') or 'unknown'}"]
    return [*parts, f"`make gpu STEPS={name}`; {', '.join(where)}."]


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of a Markdown table; its columns are all keys, in the order in which they come."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [_row(columns), _row("---" for _ in columns)]
    return lines + [_row(shown(row.get(column)) for column in columns) for row in rows]


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _line(figures: Mapping[str, Any]) -> str:
    known = {k: v for k, v in figures.items() if v not in ({}, [], "")}
    return "; ".join(f"{key} {shown(value)}" for key, value in known.items())


def shown(value: object) -> str:
    """A value as a reader wants it: four digits of a float, nested things in brackets."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{k} {shown(v)}" for k, v in value.items()) + ")"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(shown, value))
    return str(value).replace("|", "\\|").replace("\n", " ")
