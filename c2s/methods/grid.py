"""Invariant: a grid says what its rows change and nothing else; everything else is shared by all rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from c2s.config import resolve
from c2s_cache.errors import ConfigError

SCORES = ("hIoU", "sIoU", "uIoU")
"""Of a row, in per cent, in the papers' order."""
ACROSS = "mIoU"
"""Of a row on another data set than the cache's."""


def column(dataset: str, score: str = ACROSS) -> str:
    """What a score on another data set is called: "mIoU@context"."""
    return f"{score}@{dataset}"


class PaperRun(BaseModel):
    """What a paper's rows are of; `weights` are those that its students begin with, as a sentence goes on,
    and `given` whether ours begin with the like without being asked to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    student: str
    iterations: int
    batch_size: int
    weights: str = "from an ImageNet encoder"
    given: bool = False

    @property
    def told(self) -> str:
        """In words."""
        schedule = f"{self.iterations} iterations of {self.batch_size} images"
        return f"{self.dataset}, {self.student} {self.weights}, {schedule}"


class Row(BaseModel):
    """A row of a table.

    Attributes:
        name: as the table shows it.
        train: nested values of `TrainConfig` that are this row's.
        build: nested values of `BuildRequest` that are this row's; they need a cache of their own.
        paper: the figures of the grid's `columns` in per cent, where the paper has this row.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    train: dict[str, Any] = {}
    build: dict[str, Any] = {}
    paper: tuple[float, ...] | None = None


class Grid(BaseModel):
    """Rows of named settings; every row is run with every student and seed.

    Attributes:
        name: of the report's files.
        title: of the table.
        rows: at least one, names distinct.
        students: empty: the student that suits the cache's data set.
        on: further data sets that its rows are scored on, by the names of their classes.
        columns: what the paper's figures are: scores on the cache's data set, or on another one ("mIoU@context").
        seeds: runs per row and student, with seeds 0, 1, ...
        train: nested values of `TrainConfig` for all rows, above the recipe.
        note: one line below the table.
        paper: what the paper's numbers are of.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    title: str = ""
    rows: Annotated[tuple[Row, ...], Field(min_length=1)]
    students: tuple[str, ...] = ()
    on: tuple[str, ...] = ()
    columns: Annotated[tuple[str, ...], Field(min_length=1)] = SCORES
    seeds: Annotated[int, Field(ge=1, le=1000)] = 1
    train: dict[str, Any] = {}
    note: str = ""
    paper: PaperRun | None = None

    @model_validator(mode="after")
    def _aligned(self) -> Grid:
        for row in self.rows:
            if row.paper is not None and len(row.paper) != len(self.columns):
                raise ValueError(
                    f"row {row.name!r} has {len(row.paper)} figures of the paper for {len(self.columns)} columns"
                )
        return self

    def shown(self, others: Sequence[str]) -> tuple[str, ...]:
        """Columns of its table where rows are scored on these further data sets, too."""
        here = (c for c in self.columns if "@" not in c and c not in SCORES)
        own = tuple(c for c in self.columns if c.partition("@")[2] in others)
        bare = {c.partition("@")[2] for c in own}
        return (*SCORES, *here, *own, *(column(name) for name in others if name not in bare))


def row(name: str, paper: tuple[float, ...] | None = None, **method: Any) -> Row:
    """A row of these settings of the method."""
    return Row(name=name, paper=paper, train={"method": method} if method else {})


def table(number: str, title: str, *rows: Row, paper: PaperRun, **more: Any) -> Grid:
    """A table of a paper; `more` are further fields."""
    own: dict[str, Any] = {"name": f"table-{number}", "title": f"Table {number}: {title}"}
    return Grid(**own | {"rows": rows, "paper": paper} | more)


def read_grid(file: Path) -> Grid:
    """A grid from a YAML file with the fields of `Grid`; `name` defaults to the file's stem.

    Raises:
        ConfigError: the file cannot be read, a key or value is wrong, or two rows have one name.
    """
    grid = resolve(Grid, {"name": file.stem}, file, (), {})
    names = [row.name for row in grid.rows]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise ConfigError(f"{file}: two rows have the name {twice!r}.")
    return grid
