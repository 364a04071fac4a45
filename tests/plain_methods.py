"""A method and a student of one's own, as someone's package would bring them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from c2s.methods.base import Facts, Method, MethodConfig
from c2s.methods.batch import Batch
from c2s.methods.clip_to_seg.examples import GLOBAL_CLS
from c2s.methods.examples import (
    PIXELS,
    CutView,
    TeacherOutput,
    TrainingExample,
    batch_fields,
    stacked,
    view_fields,
)
from c2s.students.base import Student


class Whole(Student):
    """Gives an image one embedding, by a frozen projection of what it has learnt."""

    frozen = ("projection.",)

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.backbone = nn.Conv2d(3, 8, 4, 4)
        self.projection = nn.Linear(8, dim, bias=False).requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.projection(self.backbone(images).mean((2, 3)))

    def classify(self, images: Tensor, text: Tensor) -> Tensor:
        scores = nn.functional.normalize(self(images).float(), dim=1) @ text.T
        return scores[:, :, None, None]


@dataclass(frozen=True, kw_only=True)
class WholeExample(TrainingExample):
    cls: NDArray[np.float16]


@dataclass(frozen=True, kw_only=True)
class WholeBatch(Batch):
    cls: Tensor


class WholeExamples:
    paths, teacher_paths, pixel_bytes = PIXELS | {GLOBAL_CLS}, frozenset({GLOBAL_CLS}), 3

    def example(self, view: CutView, teacher: TeacherOutput) -> WholeExample:
        return WholeExample(**view_fields(view), cls=teacher[GLOBAL_CLS])

    def collate(self, examples: Sequence[WholeExample]) -> WholeBatch:
        cls = stacked([e.cls for e in examples], np.float32)
        return WholeBatch(**batch_fields(examples), cls=cls)


class WholeConfig(MethodConfig):
    """The image's own token, and nothing else."""

    stages: ClassVar[tuple[str, ...]] = ("views", "global_cls")
    student: ClassVar[str] = "python:plain_methods:Whole"
    kind: ClassVar[type[Student]] = Student
    defaults: ClassVar[dict[str, Any]] = {"schedule": "cosine", "clip_norm": 1.0, "lr": 1e-2}

    scale: float = 1.0

    def examples(self, manifest, transductive=False):
        return WholeExamples()

    def build(self, facts: Facts) -> Method:
        return WholeMethod(self.scale)


class WholeMethod(Method):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, student, images: Tensor, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(batch, WholeBatch)
        loss = self.scale * (1 - torch.cosine_similarity(student(images), batch.cls)).mean()
        return {"loss": loss}
