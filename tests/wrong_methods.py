"""Methods that break one promise each; the name of the class is that of the test which must say so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from c2s.methods.base import Method, MethodConfig
from c2s.methods.batch import Batch
from c2s.methods.examples import (
    PIXELS,
    TrainingExample,
    batch_fields,
    stacked,
    view_fields,
)
from c2s.students.base import FeatureStudent, Student

CLS = "global_cls/cls"


@dataclass(frozen=True, kw_only=True)
class Example(TrainingExample):
    cls: Any


@dataclass(frozen=True, kw_only=True)
class ClsBatch(Batch):
    cls: Tensor


class Examples:
    teacher_paths, pixel_bytes = frozenset({CLS}), 3

    def __init__(self, manifest):
        self.paths = (PIXELS | {CLS}) & manifest.arrays.keys()

    def example(self, view, teacher):
        return Example(**view_fields(view), cls=teacher[CLS])

    def collate(self, examples):
        return ClsBatch(
            **batch_fields(examples), cls=stacked([e.cls for e in examples], np.float32)
        )


class Mean(Method):
    def __init__(self, facts):
        super().__init__()
        self.seen = len(facts.seen.embeddings)
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, student, images, batch):
        mean = student(images).mean((2, 3))
        return {"loss": self.weight * (1 - F.cosine_similarity(mean, batch.cls).mean())}


class Plain(MethodConfig):
    """The mean feature is the image's embedding."""

    stages: ClassVar = ("views", "global_cls")
    beside: ClassVar = ("labels", "text")
    kind: ClassVar[type[Student]] = FeatureStudent
    made: ClassVar[type] = Examples
    method: ClassVar[type[Method]] = Mean

    def examples(self, manifest, transductive=False):
        return self.made(manifest)

    def build(self, facts):
        return self.method(facts)


class ItsSettingsSurviveJson(Plain):
    scale: Any = (1, 2)


class ItReadsWhatTheStagesThatItNamesHold(Plain):
    class made(Examples):
        def __init__(self, manifest):
            self.paths = PIXELS | {CLS, "regions/cls"}


class ABatchHasARowForEachView(Plain):
    class made(Examples):
        def collate(self, examples):
            return ClsBatch(
                **batch_fields(examples), cls=stacked([e.cls for e in examples], np.float32)[:1]
            )


class ATeacherInTheLoopMayAnswer(Plain):
    class made(Examples):
        def example(self, view, teacher):
            return Example(**view_fields(view), cls=view.sample.arrays.get(CLS, 0 * teacher[CLS]))


class LossesAreFiniteAndTeachTheStudent(Plain):
    class method(Mean):
        def forward(self, student, images, batch):
            loss = super().forward(student, images, batch)["loss"]
            return {"loss": self.weight + loss.detach()}


class ABatchIsLeftAsItWas(Plain):
    class method(Mean):
        def forward(self, student, images, batch):
            batch.cls.div_(batch.cls.norm(dim=1, keepdim=True))
            return super().forward(student, images, batch)


class ItTrainsOnItsStagesAlone(Plain):
    class method(Mean):
        def forward(self, student, images, batch):
            loss = super().forward(student, images, batch)["loss"]
            return {"loss": loss / self.seen if self.seen else loss * float("nan")}


class SavedAndReadBackItGoesOnTheSame(Plain):
    class method(Mean):
        def __init__(self, facts):
            super().__init__(facts)
            self.steps = 0

        def forward(self, student, images, batch):
            self.steps += 1
            loss = super().forward(student, images, batch)["loss"]
            return {"loss": loss * self.steps}
