"""Invariant: a method is found by its name, here alone; its module is imported only then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from pydantic import ValidationError

from c2s.config import InnerError, merge
from c2s.methods.base import MethodConfig
from c2s.shapes.defaults import TRAIN, WORLD
from c2s_cache.errors import ConfigError
from c2s_cache.manifest import Manifest
from c2s_cache.plugins import CODE, imported, loaded

DEFAULT = "clip-to-seg"
GROUP = "c2s.methods"
METHODS = {
    "clip-to-seg": "c2s.methods.clip_to_seg.config:ClipToSegConfig",
    "clip-rc": "c2s.methods.clip_rc.config:ClipRCConfig",
    "gkc": "c2s.methods.gkc.config:GKCConfig",
    "zeroseg": "c2s.methods.zeroseg.config:ZeroSegConfig",
}
"""Where the configurations of c2s's own methods lie."""


def names() -> tuple[str, ...]:
    """Names of all methods: c2s's own and those of installed packages."""
    return tuple(dict.fromkeys([*METHODS, *sorted(e.name for e in entry_points(group=GROUP))]))


def method_class(name: str) -> type[MethodConfig]:
    """The configuration class of a method.

    Args:
        name: one of `names`, or `python:MODULE:CLASS`.

    Raises:
        ConfigError: there is no such method, it cannot be imported, or it is none.
    """
    found: Any = None
    if name.startswith(CODE):
        found = imported(name, "method")
    elif name in METHODS:
        module, _, attribute = METHODS[name].partition(":")
        found = getattr(import_module(module), attribute)
    else:
        for entry in entry_points(group=GROUP, name=name):
            found = loaded(entry, "method")
    if found is None:
        raise ConfigError(
            f"There is no method {name!r}; choose one of {', '.join(names())}.",
            "A class of your own: --method python:MODULE:CLASS.",
        )
    if not (isinstance(found, type) and issubclass(found, MethodConfig)):
        raise ConfigError(f"{name} is no method: expected a subclass of {MethodConfig.__name__}.")
    return found


def named(method: Any) -> str:
    """The name in a method's nested settings; the default one's where they have none."""
    return str(method.get("name", DEFAULT)) if isinstance(method, Mapping) else DEFAULT


def method_config(settings: Any) -> Any:
    """Nested settings as the configuration of the method that they name; anything else as it is.

    Raises:
        ConfigError: as `method_class`.
        InnerError: a wrong key or value.
    """
    if not isinstance(settings, Mapping):
        return settings
    name = named(settings)
    model = method_class(name)
    try:
        return model.model_validate({**settings, "name": name})
    except ValidationError as error:
        raise InnerError(error, model) from error


def stages_of(methods: Iterable[str]) -> tuple[str, ...]:
    """The stages that a cache for some methods is built with, each once.

    Raises:
        ConfigError: as `method_class`.
    """
    classes = [method_class(name) for name in methods]
    return tuple(dict.fromkeys(s for method in classes for s in (*method.stages, *method.beside)))


def methods_of(manifest: Manifest, further: Iterable[str] = ()) -> list[str]:
    """Names of the methods that a cache has the stages for, of all that are known and of `further` ones.

    Raises:
        ConfigError: one of them cannot be imported.
    """
    every = dict.fromkeys([*names(), *further])
    return [n for n in every if set(method_class(n).stages) <= set(manifest.stage_names)]


def run_defaults(method: str, dataset: str, student: str | None) -> dict[str, Any]:
    """Nested settings of a run that replace the method's own defaults for a cache of a data set.

    Args:
        method: its name.
        dataset: data set name.
        student: the student the user named, if any; where it is not the data set's own, the general settings hold.

    Raises:
        ConfigError: as `method_class`.
    """
    kin = "shapes" if dataset in WORLD else dataset
    schedule = TRAIN if dataset in WORLD else {}
    suited = merge(schedule, method_class(method).by_dataset.get(kin, {}))
    return suited if student in (None, suited.get("student", student)) else {}
