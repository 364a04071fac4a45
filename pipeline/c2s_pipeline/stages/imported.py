"""Stages whose values may come from elsewhere, an array for each image, in place of the teacher's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from c2s_cache import ConfigError, StageRecord
from c2s_pipeline.imported import Beside
from c2s_pipeline.stages.base import Outline, Stage, StageSettings

DIGEST = "imported"


class ImportSettings(StageSettings):
    """`folder` holds what was computed elsewhere, by image id, and `cells` by `cells` of it make up a view; without a
    folder neither has a meaning."""

    folder: Path | None = Field(default=None, exclude=True)
    cells: int = Field(default=32, ge=2, le=256)


class Importing(Stage):
    """A stage that a folder may bring.

    Attributes:
        imported: whether one did, of a stage that a cache has.
        acting: settings that act on what is imported, too.
    """

    settings: Any
    imported: bool = False
    acting: tuple[str, ...] = ()

    @classmethod
    def recorded(cls, record: StageRecord) -> Stage:
        """See `Stage.recorded`; what was imported cannot be computed anew."""
        stage = super().recorded(record)
        assert isinstance(stage, Importing)
        if DIGEST in record.given:
            stage.imported, stage.live = True, False  # type: ignore[misc]
        return stage

    @property
    def folder(self) -> Path | None:
        """See `Stage`."""
        found: Path | None = self.settings.folder
        return found

    def brings(self, outline: Outline) -> bool:
        """See `Stage.brings`; a derived cache keeps what its base imported."""
        return self.folder is not None or bool(self._kept(outline))

    def check(self, outline: Outline) -> None:
        """See `Stage.check`; cells are those of what is imported, on which no other setting of a derived cache acts."""
        super().check(outline)
        if self.folder is None and self._kept(outline):
            usual = type(self.settings)()
            for key in type(self.settings).model_fields.keys() - {"folder", "cells"}:
                if getattr(self.settings, key) != getattr(usual, key):
                    raise ConfigError(
                        f"{self.name}.{key} has no effect: {self.name} was imported into the cache."
                    )
        if self.settings.cells != ImportSettings().cells and not self.brings(outline):
            raise ConfigError(f"{self.name}.cells has no effect: nothing is imported.")

    def require_effect(self, said: Mapping[str, Any]) -> None:
        """See `Stage.require_effect`: how it would be computed has no meaning where it is imported."""
        if self.folder is None:
            return
        own = (key for key in said.get(self.name, ()) if key not in ("folder", "cells"))
        idle = [f"{self.name}.{key}" for key in own if key not in self.acting]
        idle += [key for key in self.of_teacher if said.get(key) is not None]
        if idle:
            raise ConfigError(
                f"{idle[0]} has no effect: {self.name} comes from {self.folder}.",
                f"Leave out {'it' if len(idle) == 1 else ', '.join(idle)}, or the folder.",
            )

    def given(self, outline: Outline) -> dict[str, Any]:
        """Digests of what the folder holds for the images of each part."""
        if self.folder is None:
            return self._kept(outline)
        assert isinstance(outline.source, Beside)
        return {DIGEST: outline.source.digests(self.name)}

    def _kept(self, outline: Outline) -> dict[str, Any]:
        base = outline.base
        if base is None or self.name not in base.stage_names:
            return {}
        return base.stage(self.name).given

    def asked(self, outline: Outline) -> dict[str, Any]:
        """Of what is imported the number of cells, of all else every other setting."""
        every = super().asked(outline)
        if self.brings(outline):
            return {"cells": self.settings.cells}
        return {key: value for key, value in every.items() if key != "cells"}
