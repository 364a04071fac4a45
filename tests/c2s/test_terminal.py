"""Tables on narrow terminals."""

from __future__ import annotations

import numpy as np
import pytest
from rich.table import Table

from c2s.evaluation.confusion import ConfusionMatrix
from c2s.evaluation.evaluate import EvalResult
from c2s.evaluation.table import result_table
from c2s.terminal import print_table


def printed(capsys, monkeypatch, columns, show):
    monkeypatch.setenv("COLUMNS", str(columns))
    show()
    return capsys.readouterr().out


@pytest.mark.parametrize("columns", [10, 20, 40, 80])
def test_figures_are_whole_at_any_width(capsys, monkeypatch, columns):
    table = Table("row", title="a title of several words")
    for name in ("hIoU", "sIoU", "passes"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row("ours, inductive, offset 0.02", "71.1", "76.3", "118287")
    table.add_row("[bold]a name[/bold] and [/x]", "100.0", "-", "7")
    out = printed(capsys, monkeypatch, columns, lambda: print_table(table))
    for figure in ("71.1", "76.3", "118287", "100.0", "hIoU", "[bold]a"):
        assert figure in out
    assert "…" not in out


@pytest.mark.parametrize("columns", [20, 80])
def test_results_are_whole(capsys, monkeypatch, columns):
    counts = ConfusionMatrix(3)
    counts.update(np.array([[0, 1, 2, 2]], np.uint8), np.array([[0, 1, 2, 1]]))
    names = ("a class of five words", "[red]", "street/car")
    result = EvalResult({0.0: counts.metrics((2,))}, names, (2,), 12345, 1.0)
    out = printed(capsys, monkeypatch, columns, lambda: print_table(result_table(result)))
    for figure in ("100.0", "50.0", "66.7", "75.0", "[red]", "street/car", "unseen"):
        assert figure in out
    assert "…" not in out


def test_wide_terminals_change_nothing(capsys, monkeypatch):
    table = Table("a", "b")
    table.add_row("x", "1.0")
    narrow, wide = (printed(capsys, monkeypatch, n, lambda: print_table(table)) for n in (80, 300))
    assert narrow == wide
