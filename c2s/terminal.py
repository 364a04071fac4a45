"""Bars on stderr, silent where it is no terminal, and tables on stdout, whose figures are whole at any width."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from c2s_cache.change import Change


class RateColumn(ProgressColumn):
    """Items per second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """The rate since the last updates, or a dash."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} {self.unit}/s" if speed else "-", style="cyan")


def _progress(unit: str) -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        speed_estimate_period=120.0,
    )


class BuildBar:
    """Shows a cache build; the pipeline calls `start` and `advance`."""

    def __init__(self) -> None:
        self._progress = _progress("images")
        self._task = self._progress.add_task("loading the teacher", total=None)

    def __enter__(self) -> BuildBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def change(self, change: Change) -> None:
        """Another request is being met from what is there."""
        stages = f"keeping {', '.join(change.kept)}; computing {', '.join(change.new) or 'nothing'}"
        self._progress.console.print(stages, markup=False, highlight=False)

    def once(self, stage: str, done: int, total: int) -> None:
        """So much is done of a stage that is computed once."""
        self._progress.update(self._task, description=stage, total=total, completed=done)

    def start(self, total: int, done: int) -> None:
        """The build has `total` rows, of which `done` are already in the cache."""
        text = "building" if done < total else "complete"
        self._progress.reset(self._task, description=text, total=total, completed=done)
        if not sys.stderr.isatty():
            print(f"building: {done} of {total} images are in the cache", file=sys.stderr)

    def advance(self, rows: int) -> None:
        """`rows` more rows were computed."""
        self._progress.advance(self._task, rows)

    def warn(self, sentence: str) -> None:
        """Something is wrong, and the build goes on."""
        self._progress.console.print(
            f"warning: {sentence}", markup=False, highlight=False, soft_wrap=True
        )


@contextmanager
def bar(label: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    """A bar over `total` items (None: not known); yields the function that advances it."""
    with _progress(unit) as progress:
        task = progress.add_task(label, total=total)
        yield lambda n: progress.advance(task, n)


def print_table(table: RenderableType) -> None:
    """Print a table, or a group of them; names are taken as they are, without markup.

    Its words give way to a narrow terminal, and then its lines.

    Args:
        table: its columns of figures have `no_wrap`.
    """
    console = Console(markup=False, highlight=False)
    wide = console.options.update(width=10_000)
    narrowest = Measurement.get(console, wide, table).minimum
    console.width = max(console.width, narrowest)
    console.print(table)
