"""Reports in the paper's form: our means and spreads over seeds, and the paper's numbers beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich import box
from rich.table import Table

from c2s.ablation.plan import Line
from c2s.methods.grid import ACROSS, SCORES, Grid
from c2s_cache import C2SError
from c2s_cache.receipt import write_atomic


def grid_facts(
    grid: Grid,
    lines: Sequence[Line],
    outcomes: Mapping[str, dict[str, Any] | C2SError],
    others: Sequence[str] = (),
) -> dict[str, Any]:
    """Results of a grid as JSON values.

    Args:
        grid: whose lines were run.
        lines: its rows, with every student.
        outcomes: scores by run, or why there are none.
        others: further data sets that runs were scored on.

    Returns:
        `name`, `title`, `note`, `paper` (what its figures are of), `columns`, `absent`, `rows`, `order` and
        `left_out`. Where no class is seen, or none unseen, the columns have mIoU in place of hIoU, sIoU and uIoU. A row
        has `name`, `student`, `runs` (one per seed that is done: `seed`, scores in per cent, `seconds` of training,
        `run`), their means under the names of the `columns`, `spread` (standard deviations; from two seeds on),
        `paper` (the figures of those columns that the paper has), and `direction`. `absent` are scores of the paper on
        data sets that runs were not scored on, unless the grid itself chooses others. `left_out` says of rows that the
        cache does not fit why. `order` counts the pairs of rows that the paper's
        figures order, and how many of them ours order alike, by the first column that both have.
    """
    columns = grid.shown(others)
    scored = [outcome for outcome in outcomes.values() if isinstance(outcome, dict)]
    if scored and all(_of_one_kind(outcome) for outcome in scored):
        columns = (ACROSS, *(c for c in columns if c not in (*SCORES, ACROSS)))
    rows = [_row(line, grid, columns, outcomes) for line in lines]
    judged = next((c for c in columns if c in grid.columns), "")
    for student in dict.fromkeys(line.student for line in lines):
        _compare([row for row in rows if row["student"] == student], judged)
    pairs = [
        (a[judged] - b[judged]) * (a["paper"][judged] - b["paper"][judged])
        for a, b in combinations([r for r in rows if r["paper"] and r[judged] is not None], 2)
        if a["student"] == b["student"] and a["paper"][judged] != b["paper"][judged]
    ]
    order = {"pairs": len(pairs), "alike": sum(p > 0 for p in pairs)}
    return {
        "name": grid.name,
        "title": grid.title or grid.name,
        "note": grid.note,
        "paper": grid.paper and grid.paper.told,
        "columns": list(columns),
        "absent": _absent(grid, others),
        "rows": rows,
        "order": order,
        "left_out": {line.row.name: line.misfit for line in lines if line.misfit is not None},
    }


def _absent(grid: Grid, others: Sequence[str]) -> list[str]:
    elsewhere = [c for c in grid.columns if "@" in c and c.partition("@")[2] not in others]
    chosen = grid.on and set(others) <= set(grid.on)
    return elsewhere if any(r.paper for r in grid.rows) and not chosen else []


def _of_one_kind(scores: Mapping[str, Any]) -> bool:
    """Whether there is nothing to weigh: all classes are unseen, or none is."""
    return len({entry["unseen"] for entry in scores.get("classes", ())}) == 1


def _row(
    line: Line,
    grid: Grid,
    columns: Sequence[str],
    outcomes: Mapping[str, dict[str, Any] | C2SError],
) -> dict[str, Any]:
    runs = []
    for config in line.runs:
        found = outcomes.get(config.run_name)
        if isinstance(found, dict):
            scores = {k: found[k] for k in (*columns, "seconds")}
            runs.append(
                {
                    "seed": config.seed,
                    **scores,
                    "mIoU": found.get("mIoU"),
                    "run": str(config.runs / config.run_name),
                }
            )
    values = {k: [r[k] for r in runs if r[k] is not None] for k in (*columns, "seconds")}
    means = {k: round(fmean(v), 2) if v else None for k, v in values.items()}
    spread = {k: round(stdev(values[k]), 2) for k in columns if len(values[k]) > 1}
    paper = dict(zip(grid.columns, line.row.paper or (), strict=False))
    paper = {k: v for k, v in paper.items() if k in columns}
    return {
        "name": line.row.name,
        "student": line.student,
        **means,
        "spread": spread,
        "runs": runs,
        "paper": paper or None,
        "direction": None,
    }


def unlike_paper(grid: Grid, lines: Sequence[Line], dataset: str) -> str | None:
    """What keeps rows from being compared with the paper's, figure by figure; None: nothing does."""
    paper = grid.paper
    if paper is None:
        return None
    found = [dataset] if dataset != paper.dataset else []
    for run in (run for line in lines if line.row.paper for run in line.runs):
        found += [run.student] if run.student != paper.student else []
        unpretrained = run.weights == "random" or (run.weights is None and not paper.given)
        found += ["no --weights"] if unpretrained else []
        found += [f"{run.total} iterations"] if run.total != paper.iterations else []
        found += [f"batches of {run.batch_size}"] if run.batch_size != paper.batch_size else []
    return ", ".join(dict.fromkeys(found)) or None


def _compare(rows: list[dict[str, Any]], judged: str) -> None:
    """Say of each row whether its figure in a column lies on the paper's side of the paper's best row.

    `direction` gets `alike`, and `within_spread`: whether the difference is below the standard
    deviations of the two rows, added in quadrature (None with one seed).
    """
    known = [r for r in rows if r["paper"] and r[judged] is not None]
    if not known:
        return
    best = max(known, key=lambda r: r["paper"][judged])
    for row in known:
        theirs = row["paper"][judged] - best["paper"][judged]
        ours = row[judged] - best[judged]
        if row is best or theirs == 0:
            continue
        spreads = [r["spread"].get(judged) for r in (row, best)]
        within = None if None in spreads else abs(ours) < math.hypot(*spreads)
        row["direction"] = {"alike": ours * theirs > 0, "within_spread": within}


def grid_table(facts: Mapping[str, Any], scoring: Mapping[str, Any]) -> Table:
    """A grid for the terminal."""
    table = Table(
        title=f"{facts['title']}: {_where(scoring)}, %",
        caption=_below(facts),
        box=box.SIMPLE,
        collapse_padding=True,
        pad_edge=False,
    )
    for number, name in enumerate(_columns(facts)):
        table.add_column(name, justify="right" if number else "left", no_wrap=number > 0)
    for row in facts["rows"]:
        table.add_row(*_texts(row, facts))
    return table


def write_report(out: Path, facts: Mapping[str, Any]) -> None:
    """NAME.md and NAME.json of a grid, which is the only one in `facts`."""
    (grid,) = facts["grids"]
    write_atomic(out / f"{grid['name']}.json", (json.dumps(facts, indent=2) + "\n").encode())
    write_atomic(out / f"{grid['name']}.md", markdown(facts).encode())


def markdown(facts: Mapping[str, Any]) -> str:
    """A grid as Markdown, with what it cost."""
    (grid,) = facts["grids"]
    columns = _columns(grid)
    lines = [f"### {grid['title']}", "", f"{_where(facts['scoring'])}, per cent.", ""]
    lines += [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    lines += [f"| {' | '.join(_texts(row, grid))} |" for row in grid["rows"]]
    lines += ["", _below(grid), "", *costs(facts)]
    return "\n".join(lines).rstrip() + "\n"


def costs(facts: Mapping[str, Any]) -> list[str]:
    """Sentences on caches, time and failures."""
    lines = []
    derived = {path: changes for path, changes in facts["caches"].items() if changes}
    lines += [f"Derived: {path} with {json.dumps(c)}." for path, c in derived.items()]
    teacher = facts["teacher"]
    if teacher["saved_seconds"] is not None:
        lines.append(
            f"Teacher: {teacher['cached_seconds']:.0f} s for the caches; online, the {teacher['views']} views "
            f"of these runs would have taken {teacher['online_seconds']:.0f} s at the rate of the build "
            f"({teacher['images_per_s']:.1f} images/s){_saved(teacher['saved_seconds'])}."
        )
    lines += [f"Failed: {name}: {why}" for name, why in facts["failed"].items()]
    return lines


def _saved(seconds: float) -> str:
    """Of a few short runs a cache saves nothing yet."""
    return f": {seconds:.0f} s saved" if seconds > 0 else ""


def _where(scoring: Mapping[str, Any]) -> str:
    some = "" if scoring["limit"] is None else f", first {scoring['limit']} images"
    return f"{scoring['dataset']} {scoring['split']}{some}"


def _below(grid: Mapping[str, Any]) -> str:
    order, parts = grid["order"], []
    if order["pairs"]:
        parts.append(f"{order['alike']} of {order['pairs']} pairs of rows in the paper's order.")
        if any((row["direction"] or {}).get("within_spread") for row in grid["rows"]):
            parts.append("(±): within the spread over seeds.")
    if grid.get("unlike_paper") and any(row["paper"] for row in grid["rows"]):
        parts.append(
            f"Not comparable with the paper's figures, which are of {grid['paper']}; here: {grid['unlike_paper']}."
        )
    parts += [f"{name} is left out: {why}" for name, why in grid["left_out"].items()]
    if grid["absent"]:
        names = [c.partition("@")[2] for c in grid["absent"]]
        asked = " ".join(f"--on {name}" for name in names)
        parts.append(
            f"The paper's figures of {' and '.join(names)} are shown beside scores there: {asked}."
        )
    if grid["note"]:
        parts.append(grid["note"])
    return " ".join(parts)


def _columns(grid: Mapping[str, Any]) -> list[str]:
    """Without the paper's columns where no row has them."""
    found, theirs = ["row", *grid["columns"], "s"], _of_paper(grid)
    return [*found, f"paper: {' / '.join(theirs)}", "as paper"] if theirs else found


def _of_paper(grid: Mapping[str, Any]) -> list[str]:
    """Columns that the paper has for some row."""
    known = {k for row in grid["rows"] for k in row["paper"] or {}}
    return [k for k in grid["columns"] if k in known]


def _texts(row: Mapping[str, Any], grid: Mapping[str, Any]) -> list[str]:
    several = len({r["student"] for r in grid["rows"]}) > 1
    name = f"{row['name']} ({row['student']})" if several else row["name"]
    ours = [_figure(row[k], row["spread"].get(k)) for k in grid["columns"]]
    seconds = "-" if row["seconds"] is None else f"{row['seconds']:.0f}"
    paper = [f"{row['paper'][k]:.1f}" for k in _of_paper(grid)] if row["paper"] else ["-"]
    found = [name, *ours, seconds, " / ".join(paper), _direction(row["direction"])]
    return found[: len(_columns(grid))]


def _direction(facts: Mapping[str, Any] | None) -> str:
    if facts is None:
        return "-"
    return ("yes" if facts["alike"] else "no") + (" (±)" if facts["within_spread"] else "")


def _figure(mean: float | None, spread: float | None) -> str:
    if mean is None:
        return "-"
    return f"{mean:.1f}" if spread is None else f"{mean:.1f}±{spread:.1f}"
