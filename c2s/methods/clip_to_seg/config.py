"""What C2S asks of a cache, of the student and of the rest of the program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from c2s.methods.base import Facts, Method, MethodConfig
from c2s.methods.cells import chosen_grids
from c2s.methods.clip_to_seg.examples import DENSE, ClipToSegExamples
from c2s.methods.clip_to_seg.method import ClipToSeg
from c2s.methods.clip_to_seg.paper import paper_row
from c2s.methods.clip_to_seg.self_training import SelfTraining
from c2s.methods.clip_to_seg.settings import ClipToSegSettings
from c2s.methods.grid import Grid
from c2s.students.base import FeatureStudent, Student
from c2s_cache.errors import ConfigError
from c2s_cache.manifest import Manifest, TeacherInfo


class ClipToSegConfig(ClipToSegSettings, MethodConfig):
    """The configuration of C2S, found by its name."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    stages: ClassVar[tuple[str, ...]] = ("views", "global_cls", "masks", "regions")
    beside: ClassVar[tuple[str, ...]] = (
        "labels",
        "dense",
        "text",
    )  # masks are made anew of the second
    kind: ClassVar[type[Student]] = FeatureStudent  # type: ignore[type-abstract]
    by_dataset: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "voc": {"iterations": 20_000},
        "context": {"iterations": 40_000},
        "context-bg": {"iterations": 40_000},
        "coco-stuff": {"iterations": 80_000},
        "shapes": {"method": {"supervision": "features"}},  # a matter of time
    }

    name: Literal["clip-to-seg"] = "clip-to-seg"

    @classmethod
    def tables(cls) -> Mapping[str, Grid]:
        """Tables IV to XI."""
        from c2s.methods.clip_to_seg.tables import TABLES

        return TABLES

    def paper(self, dataset: str, student: str, transductive: bool) -> dict[str, float] | None:
        """Rows of Tables I and II."""
        return paper_row(dataset, student, transductive)

    def read_stages(self) -> tuple[str, ...]:
        """Dense features and cells only where they are distilled, and words where these are drawn."""
        further = {
            "dense": self.weights.dense_distillation,
            "cells": self.weights.cell_distillation,
            "words": self.text_diversification,
        }
        return (*self.stages, *(stage for stage, read in further.items() if read))

    def examples(self, manifest: Manifest, transductive: bool = False) -> ClipToSegExamples:
        """See `MethodConfig.examples`.

        Raises:
            ConfigError: dense features are to be distilled that are not of the space of CLS tokens and text, or cells
                of a grid that the cache does not have.
        """
        labelled, dense = "labels" in manifest.stage_names, frozenset[str]()
        if self.weights.dense_distillation:
            _check_space(manifest.teacher)
            dense = frozenset(DENSE & manifest.arrays.keys())
        scales, cells = tuple[int, ...](), tuple[int, ...]()
        if self.weights.cell_distillation:
            scales, cells = chosen_grids(manifest, self.cell_scales, "method.cell_scales")
        return ClipToSegExamples(
            len(manifest.classes), labelled, transductive, dense, scales, cells
        )

    def build(self, facts: Facts) -> Method:
        """The method's module: inductive from the seen classes, transductive with the unseen ones."""
        return (ClipToSeg if facts.unseen is None else SelfTraining)(self, facts)


def _check_space(teacher: TeacherInfo) -> None:
    if teacher.dense_dim != teacher.dim:
        raise ConfigError(
            f"method.weights.dense_distillation cannot act on the dense features {teacher.dense_features!r}: they have "
            f"{teacher.dense_dim} channels of the teacher's tower, expected the {teacher.dim} of its joint space "
            "with text, where the student's features are.",
            "Build a cache with --dense-features plain, value or another that is projected.",
        )
