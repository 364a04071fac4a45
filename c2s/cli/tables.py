"""Invariant: a table's figures are whole at any width of the terminal: its words give way, and then its lines."""

from __future__ import annotations

from rich.console import Console, RenderableType
from rich.measure import Measurement


def print_table(table: RenderableType) -> None:
    """Print a table, or a group of them, on stdout; names are taken as they are, without markup.

    Args:
        table: its columns of figures have `no_wrap`.
    """
    console = Console(markup=False, highlight=False)
    wide = console.options.update(width=10_000)
    narrowest = Measurement.get(console, wide, table).minimum
    console.width = max(console.width, narrowest)
    console.print(table)
