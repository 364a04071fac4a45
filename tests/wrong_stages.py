"""Stages that break one promise each; the name of the class is that of the test which must say so."""

from __future__ import annotations

import itertools

import numpy as np

from c2s_cache import ArrayRecord
from c2s_cache.integrity import Finding
from c2s_pipeline.stages.base import CLS_FACTS, Likeness, Stage, StageSettings
from c2s_pipeline.stages.views import view_pixels

CALLS = itertools.count()


class ColourSettings(StageSettings):
    scale: float = 1.0


class Colours(Stage):
    """The mean colour of each view, said to be the teacher's."""

    name = "colours"
    Settings = ColourSettings
    needs = ("views",)
    facts = CLS_FACTS
    live = True
    path = "colours/mean"
    inspected = ("colours/mean",)

    def axes(self, outline):
        return {"colour": 3}

    def arrays(self, outline):
        return {self.path: ArrayRecord(axes=("view", "colour"), dtype="float32")}

    def compute(self, batch):
        return {self.path: list(self.colours(batch).astype(np.float32))}

    def colours(self, batch):
        pixels = view_pixels(batch, batch.manifest.teacher.image_size)
        return self.settings.scale * pixels.mean((1, 2), dtype=np.float64)

    def compare(self, stored, anew):
        worst = max(
            np.abs(a - b).max() for a, b in zip(stored[self.path], anew[self.path], strict=True)
        )
        return Likeness(1 - float(worst), 0.999, "likeness of colours")


class AWorkerHasItByItsRecord(Colours):
    def asked(self, outline):
        return {"scale": 2 * self.settings.scale}


class ItsArraysBeginWithItsName(Colours):
    path = "colour"
    inspected = ()


class ItGivesWhatItsArraysSay(Colours):
    def colours(self, batch):
        return np.full_like(super().colours(batch), np.inf)


class TheSameIsComputedTwice(Colours):
    def colours(self, batch):
        return super().colours(batch) + 1e-4 * next(CALLS)


class ItReadsNothingButWhatItDependsOn(Colours):
    def colours(self, batch):
        known = np.array([(labels != 255).mean() for labels in batch.items("labels/data")])
        return super().colours(batch) + known[:, None]


class FactsThatItDoesNotListDecideNothing(Colours):
    def colours(self, batch):
        return super().colours(batch) + batch.manifest.seed


class ARowDoesNotDependOnThoseBesideIt(Colours):
    def colours(self, batch):
        found = super().colours(batch)
        return found - found.mean(0)


class WhichUnseenClassAPixelHasDecidesNothing(Colours):
    live = False

    def colours(self, batch):
        return np.array([[batch.source.labels(i).astype(int).sum()] * 3 for i in batch.ids])


class ItFindsNothingWrongWithItsOwnValues(Colours):
    def inspect(self, block):
        yield Finding("values", "row 0", "is too colourful")


class ValuesOfOtherRowsAreToldApart(Colours):
    def compare(self, stored, anew):
        return Likeness(1.0, 0.999, "likeness of colours")


class PassesAreCounted(Colours):
    def colours(self, batch):
        batch.embed_images(view_pixels(batch, batch.manifest.teacher.image_size))
        return super().colours(batch)
