"""Named settings of a build and a run, YAML files in a method's folder `recipes/`.

Precedence: general defaults, then the method's, those of the data set, then the recipe, then --config, --set and
options.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from c2s.config import resolve
from c2s.methods.registry import DEFAULT, METHODS, method_class
from c2s.strict_yaml import read_yaml
from c2s_cache.errors import ConfigError


class Recipe(BaseModel):
    """Nested values that replace defaults: `build` those of a cache, `train` those of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    build: dict[str, Any] = {}
    train: dict[str, Any] = {}


def recipe_names(method: str = DEFAULT) -> tuple[str, ...]:
    """Recipes that a method has.

    Raises:
        ConfigError: there is no such method.
    """
    return tuple(sorted(file.stem for file in method_class(method).folder().glob("recipes/*.yaml")))


def load_recipe(name: str | None, method: str = DEFAULT) -> Recipe:
    """A recipe of a method by its name; None gives an empty one.

    Raises:
        ConfigError: there is no such method or recipe.
    """
    if name is None:
        return Recipe()
    known = recipe_names(method)
    if name not in known:
        has = f"Recipes of {method}: {', '.join(known) or 'none'}."
        others = [other for other in METHODS if name in recipe_names(other)]
        of = (
            f" {' and '.join(others)} {'has' if len(others) == 1 else 'have'} it." if others else ""
        )
        raise ConfigError(f"{method} has no recipe {name!r}.{of}", has)
    file = method_class(method).folder() / "recipes" / f"{name}.yaml"
    return resolve(Recipe, read_yaml(file), None, (), {})
