"""Scores of pseudo masks as table, CSV, JSON and plot."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from c2s_cache.errors import MissingExtra
from c2s_cache.receipt import write_atomic

GROUPS = ("unseen", "seen", "all")
PAPER = {"unseen": 58.5, "seen": 53.1, "all": 49.5}
"""mIoU in per cent of the paper's Table XIII, on PASCAL VOC; its lambda and iterations are unknown."""


def score_table(facts: dict[str, Any]) -> Table:
    """One row per setting; the best unseen mIoU is bold, and the paper's Table XIII stands below."""
    rows = facts["rows"]
    groups = [g for g in GROUPS if g in rows[0]]
    table = Table(title=f"{facts['dataset']} {facts['split']}: best IoU of a latent mask, mean, %")
    caches = len({row.get("cache") for row in rows}) > 1
    for column in (*(("cache",) if caches else ()), "features", "windows", "it.", "lambda"):
        table.add_column(column, no_wrap=True)
    for column in (*groups, "purity", "latents"):
        table.add_column(column, justify="right", no_wrap=True)
    best = max(_value(row) for row in rows)
    for row in rows:
        settings = [row["features"], _windows(row), str(row["iterations"]), f"{row['threshold']:g}"]
        if caches:
            settings.insert(0, row["cache"])
        first = row[groups[0]]
        values = [*(row[g]["mIoU"] for g in groups), first["purity"], first["latents"]]
        table.add_row(
            *settings,
            *("-" if v is None else f"{v:.1f}" for v in values),
            style="bold" if _value(row) == best else None,
        )
    paper = ", ".join(f"{k} {v}" for k, v in facts["paper"].items())
    counts = ", ".join(f"{rows[0][g]['masks']} {g}" for g in groups)
    table.caption = (
        f"Masks: {counts}. Purity and latents per view: of {groups[0]}. Paper, PASCAL VOC: {paper}."
    )
    return table


def _value(row: dict[str, Any]) -> float:
    group = next(g for g in GROUPS if g in row)
    return float(row[group]["mIoU"] or 0.0)


def _windows(row: dict[str, Any]) -> str:
    sizes = "+".join(str(k) for k in row["windows"])
    return f"{sizes} flush" if row.get("flush") else sizes


def write_scores(file: Path, facts: dict[str, Any]) -> None:
    """Write the scores in the form that the file's suffix names.

    Raises:
        MissingExtra: a plot is asked for and matplotlib is not installed.
    """
    if file.suffix == ".json":
        write_atomic(file, (json.dumps(facts, indent=2) + "\n").encode())
    elif file.suffix == ".csv":
        write_atomic(file, _csv(facts["rows"]).encode())
    else:
        _plot(file, facts)


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO(newline="")
    names = [n for n in ("cache", "features", "windows", "iterations", "threshold") if n in rows[0]]
    groups = [g for g in GROUPS if g in rows[0]]
    writer = csv.writer(text)
    figures = ("mIoU", "class_mIoU", "purity", "latents", "masks")
    writer.writerow([*names, *(f"{g}_{f}" for g in groups for f in figures)])
    for row in rows:
        settings = row | {"windows": _windows(row)}
        writer.writerow(
            [*(settings[n] for n in names), *(row[g][f] for g in groups for f in figures)]
        )
    return text.getvalue()


def _plot(file: Path, facts: dict[str, Any]) -> None:
    """mIoU over lambda, a panel per group and a line per other setting."""
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"--out {file} needs matplotlib, which is not installed.",
            "Install it with: pip install 'c2s[demo]'",
        ) from error
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = facts["rows"]
    groups = [g for g in GROUPS if g in rows[0]]
    caches = len({row.get("cache") for row in rows}) > 1
    size = (4.2 * len(groups) + 2, 4)
    figure, axes = plt.subplots(1, len(groups), figsize=size, sharey=True, squeeze=False)
    lines: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        name = f"{row['features']}, {_windows(row)}, {row['iterations']} it"
        if caches:
            name = f"{Path(row['cache']).name}: {name}"
        lines.setdefault(name, []).append(row)
    for axis, group in zip(axes[0], groups, strict=True):
        for name, points in lines.items():
            points = sorted(points, key=lambda row: float(row["threshold"]))
            values = [
                float("nan") if p[group]["mIoU"] is None else p[group]["mIoU"] for p in points
            ]
            axis.plot([p["threshold"] for p in points], values, marker="o", ms=3, label=name)
        axis.set_title(group)
        axis.set_xlabel("merging threshold $\\lambda$")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("mIoU of the best latent mask, %")
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="center right", fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0, 1 - 1.9 / size[0], 1))
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)
    plt.close(figure)
