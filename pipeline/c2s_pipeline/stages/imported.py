"""Stages whose values may come from elsewhere, an array for each image, in place of the teacher's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from c2s_cache import ConfigError, StageRecord
from c2s_pipeline.imported import folder_digest
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
    """

    settings: Any
    imported: bool = False

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
        """See `Stage.check`; cells are those of what is imported."""
        super().check(outline)
        if self.settings.cells != ImportSettings().cells and not self.brings(outline):
            raise ConfigError(f"{self.name}.cells has no effect: nothing is imported.")

    def given(self, outline: Outline) -> dict[str, Any]:
        """The digest of the folder."""
        if self.folder is None:
            return self._kept(outline)
        return {DIGEST: folder_digest(self.folder)}

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
