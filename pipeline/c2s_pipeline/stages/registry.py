"""Invariant: a stage is found by its name, whoever wrote it; nothing else in the pipeline names one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from c2s_cache import ConfigError, Manifest
from c2s_cache.plugins import CODE, imported, loaded
from c2s_pipeline.stages.base import Stage

GROUP = "c2s.stages"
_named: dict[str, tuple[str, type[Stage]]] = {}
"""Stages given as `python:module:Class` in this process: that reference and the class, by name."""


def own() -> tuple[type[Stage], ...]:
    """The stages of c2s. Their modules import no torch: every command line asks them for options."""
    from c2s_pipeline.stages.captions import Captions
    from c2s_pipeline.stages.cells import Cells
    from c2s_pipeline.stages.clips import Clips
    from c2s_pipeline.stages.dense import Dense
    from c2s_pipeline.stages.global_cls import GlobalCLS
    from c2s_pipeline.stages.images import Images
    from c2s_pipeline.stages.instances import Instances
    from c2s_pipeline.stages.labels import Labels
    from c2s_pipeline.stages.masks import Masks
    from c2s_pipeline.stages.regions import Regions
    from c2s_pipeline.stages.segments import Segments
    from c2s_pipeline.stages.text import Text
    from c2s_pipeline.stages.tower import Tower
    from c2s_pipeline.stages.views import Views
    from c2s_pipeline.stages.words import Words

    return (
        *(Images, Labels, Instances, Clips, Segments, Views),
        *(GlobalCLS, Cells, Dense, Masks, Regions, Text, Words, Captions, Tower),
    )


@cache
def _installed() -> dict[str, type[Stage]]:
    """The stages of c2s, then those of other packages that are installed."""
    found = {stage.name: stage for stage in own()}
    for entry in entry_points(group=GROUP):
        stage = _checked(loaded(entry, "stage"), entry.value)
        if stage.name != entry.name:
            raise ConfigError(
                f"{entry.value} is the stage {stage.name!r}, but its entry point is called {entry.name!r}.",
                "Give both one name in the pyproject.toml of its package.",
            )
        if stage.name in found:
            raise ConfigError(f"{entry.value}: there is a stage {stage.name!r} already.")
        found[stage.name] = stage
    return found


def known() -> Mapping[str, type[Stage]]:
    """All stages that there are, by name."""
    return {**_installed(), **{name: stage for name, (_, stage) in _named.items()}}


def name_of(reference: str) -> str:
    """The name of a stage that is given by its name, or as `python:module:Class`, which makes it known.

    Raises:
        ConfigError: there is none.
    """
    if reference.startswith(CODE):
        stage = _checked(imported(reference, "stage"), reference)
        _named[stage.name] = (reference, stage)
        return stage.name
    if reference not in known():
        raise ConfigError(
            f"There is no stage {reference!r}; choose from {', '.join(known())}, or python:MODULE:CLASS."
        )
    return reference


def _checked(found: Any, reference: str) -> type[Stage]:
    if not (isinstance(found, type) and issubclass(found, Stage)):
        raise ConfigError(f"{reference} is no subclass of c2s_pipeline.stages.base.Stage.")
    return found


def closed(names: Iterable[str]) -> tuple[str, ...]:
    """Stages and all that they need, each after those that it depends on.

    Raises:
        ConfigError: one of them does not exist, or depends on itself.
    """
    wanted = {name_of(name) for name in names}
    waiting = list(wanted)
    while waiting:
        for needed in known()[waiting.pop()].needs:
            if needed not in wanted:
                wanted.add(name_of(needed))
                waiting.append(needed)
    ordered: list[str] = []
    left = [name for name in known() if name in wanted]
    while left:
        ready = next((n for n in left if not _before(n) & set(left) - {n}), None)
        if ready is None:
            raise ConfigError(f"the stages {', '.join(left)} depend on each other in a circle.")
        ordered.append(ready)
        left.remove(ready)
    return tuple(ordered)


def _before(name: str) -> set[str]:
    stage = known()[name]
    return {*stage.needs, *stage.uses}


def recorded_stages(manifest: Manifest) -> dict[str, Stage]:
    """The stages of a cache as it has them, by name, in order; without those that this installation does not know."""
    there = ((record, known().get(record.name)) for record in manifest.stages)
    return {record.name: cls.recorded(record) for record, cls in there if cls is not None}


def unknown(manifest: Manifest) -> Sequence[str]:
    """Names of a cache's stages that this installation does not know."""
    return [name for name in manifest.stage_names if name not in known()]


def imported_stages(manifest: Manifest) -> tuple[str, ...]:
    """References by which another process finds those of a cache's stages that no package brings."""
    return tuple(_named[name][0] for name in manifest.stage_names if name in _named)
