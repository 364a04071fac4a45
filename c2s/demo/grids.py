"""What the demo runs of a method."""

from __future__ import annotations

from collections.abc import Iterable

from c2s.methods.grid import Grid
from c2s.methods.recipes import recipe_names
from c2s.methods.registry import method_class, method_config, stages_of
from c2s_cache import ConfigError


def usual_recipe(method: str) -> str:
    """`best` where a method has it, or else `paper`."""
    return "best" if "best" in recipe_names(method) else "paper"


def main_table(method: str) -> Grid:
    """The first table of a method.

    Raises:
        ConfigError: it has none, or there is no such method.
    """
    tables = method_class(method).tables()
    if not tables:
        raise ConfigError(f"The method {method} has no table to run.")
    return next(iter(tables.values()))


def stages_for(method: str, grids: Iterable[Grid]) -> tuple[str, ...]:
    """The stages that a method is built with, and those that rows of some grids read beside them."""
    rows = (row.train.get("method", {}) for grid in grids for row in grid.rows)
    read = (method_config({"name": method, **own}).read_stages() for own in rows)
    return tuple(dict.fromkeys((*stages_of([method]), *(s for stages in read for s in stages))))
