"""Named settings of a build and a run: `paper`, the method as it is read, and `best`, what gained on it.

Precedence: general defaults, then those of the data set, then the recipe, then --config, --set and options.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from c2s.config import resolve
from c2s.strict_yaml import read_yaml
from c2s_cache.errors import ConfigError

FOLDER = Path(__file__).parent
NAMES = ("paper", "best")


class Recipe(BaseModel):
    """Nested values that replace defaults: `build` those of a cache, `train` those of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    build: dict[str, Any] = {}
    train: dict[str, Any] = {}


def load_recipe(name: str | None) -> Recipe:
    """A recipe by its name; None gives an empty one.

    Raises:
        ConfigError: there is no such recipe.
    """
    if name is None:
        return Recipe()
    if name not in NAMES:
        raise ConfigError(f"unknown recipe {name!r}.", f"Recipes: {', '.join(NAMES)}.")
    return resolve(Recipe, read_yaml(FOLDER / f"{name}.yaml"), None, (), {})
