"""What a student makes of words that its training never had: scores with other names for the classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rich import box
from rich.table import Table

from c2s.datasets import load_dataset
from c2s.evaluation.evaluate import evaluate, predictor
from c2s.evaluation.vocabulary import foreign_vocabulary
from c2s.runs.run import open_run
from c2s.shapes.scenes import CLASSES, RENAMED
from c2s.shapes.words import GENERAL
from c2s.text_tower import class_embeddings

LISTS = {"names": CLASSES, "general synonyms": GENERAL, "held-out synonyms": RENAMED}
"""Words for the classes, in their order; of the run's own training only the names."""
SCORES = ("sIoU", "uIoU", "hIoU")


def word_scores(runs: Sequence[Path], limit: int | None = None) -> dict[str, list[dict[str, Any]]]:
    """Scores in per cent of runs on held-out scenes whose classes are asked for by each list of words.

    Args:
        runs: run folders.
        limit: scenes to score on; default: all.

    Returns:
        Name of the list -> a dict of `SCORES` for each run.
    """
    data = load_dataset("shapes")
    items = list(data.split("val"))[:limit]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in LISTS}
    for path in runs:
        run = open_run(path)
        for name, words in LISTS.items():
            each = [(word,) for word in words]
            asked = foreign_vocabulary(run, each, class_embeddings(run, words), CLASSES)
            model = predictor(run, asked, device="cpu", protocol=data.protocol)
            scores = evaluate(model, items, asked).as_dict()
            found[name].append({key: scores[key] for key in SCORES})
    return found


def words_table(found: dict[str, list[dict[str, Any]]], row: str) -> Table:
    """The means over the runs for the terminal."""
    table = Table(
        title=f"{row}, its classes asked for by other words, %", box=box.SIMPLE, pad_edge=False
    )
    table.add_column("asked by")
    for key in SCORES:
        table.add_column(key, justify="right")
    for name, runs in found.items():
        means = [[r[key] for r in runs if r[key] is not None] for key in SCORES]
        table.add_row(f"{name}: {LISTS[name][0]}, ...", *(_mean(values) for values in means))
    return table


def _mean(values: Sequence[float]) -> str:
    return f"{fmean(values):.1f}" if values else "-"
