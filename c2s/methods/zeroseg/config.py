"""What ZeroSeg asks of a cache, of the student and of the rest of the program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from c2s.datasets.descriptor import TestProtocol
from c2s.methods.base import Facts, Method, MethodConfig
from c2s.methods.cells import chosen_grids
from c2s.methods.grid import Grid
from c2s.methods.zeroseg.examples import CellExamples, RegionExamples
from c2s.methods.zeroseg.settings import ZeroSegSettings
from c2s.students.base import Student
from c2s.students.grouping import SIZES, GroupingStudent
from c2s.students.registry import create
from c2s_cache.errors import ConfigError
from c2s_cache.manifest import Manifest
from c2s_cache.reader import Cache

PUBLISHED = {"voc-bg": 40.8, "context-bg": 20.4, "coco-object": 20.2}
"""mIoU in per cent, trained on ImageNet-1k with CLIP ViT-L/14."""

THRESHOLDS = {"voc-bg": 0.95, "context-bg": 0.05, "coco-object": 0.35}
"""Of the best probability of a pixel."""


class ZeroSegConfig(ZeroSegSettings, MethodConfig):
    """The configuration of ZeroSeg, found by its name."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    stages: ClassVar[tuple[str, ...]] = ("views", "global_cls", "cells")
    beside: ClassVar[tuple[str, ...]] = ("text",)  # to score with; training does not read it
    student: ClassVar[str] = "zeroseg-b"
    kind: ClassVar[type[Student]] = GroupingStudent  # type: ignore[type-abstract]
    defaults: ClassVar[Mapping[str, Any]] = {
        "image_size": 224,
        "jitter": False,
        "schedule": "cosine",
        "betas": (0.9, 0.95),
        "weight_decay": 0.05,
        "lr": 1.5e-4,
        "head_lr_mult": 1.0,
    }
    by_dataset: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "shapes": {
            "student": "zeroseg-shapes",
            "image_size": 64,
            "iterations": 1200,
            "lr": 1.5e-3,
            "head_lr_mult": 1.0,
            "weight_decay": 0.05,
            "method": {"decoder": {"layers": 2, "width": 96, "heads": 4}},
        }
    }

    name: Literal["zeroseg"] = "zeroseg"

    @classmethod
    def tables(cls) -> Mapping[str, Grid]:
        """What cures the collapse on Shapes, and Tables 3 to 5."""
        from c2s.methods.zeroseg.tables import TABLES

        return TABLES

    def paper(self, dataset: str, student: str, transductive: bool) -> dict[str, float] | None:
        """Of ViT-B, trained on ImageNet-1k."""
        known = student == "zeroseg-b" and dataset in PUBLISHED
        return {"mIoU": PUBLISHED[dataset]} if known else None

    def protocol(self, data: TestProtocol, size: int) -> TestProtocol:
        """Twice the side of the training views, windows at half their side (448, 224 for views of 224), but no more
        than the data set's own size."""
        side = min(2 * size, max(data.view_size, size))
        return replace(data.at(side), stride=side // 2) if side > size else data.at(size)

    def background_threshold(self, dataset: str) -> float | None:
        """Of the family of GroupViT, which tuned them on its test sets."""
        return THRESHOLDS.get(dataset)

    def blank_student(self, name: str, dim: int, size: int | None = None) -> Student:
        """See `MethodConfig.blank_student`."""
        if name not in SIZES:
            return super().blank_student(name, dim, size)
        return create(name, dim, "random", self._how())

    def _how(self) -> dict[str, Any]:
        return {} if self.grouping is None else self.grouping.model_dump()

    def read_stages(self) -> tuple[str, ...]:
        """Cells, or masks and regions."""
        parts = ("cells",) if self.source == "cells" else ("masks", "regions")
        return ("views", "global_cls", *parts)

    def new_student(self, name: str, weights: str | None, cache: Cache) -> Student:
        """A student that groups in this way, and knows the scale of the teacher's cosines."""
        if name not in SIZES:
            return super().new_student(name, weights, cache)
        teacher = cache.manifest.teacher
        return create(name, teacher.dim, weights, self._how() | {"scale": teacher.logit_scale})

    def examples(
        self, manifest: Manifest, transductive: bool = False
    ) -> CellExamples | RegionExamples:
        """See `MethodConfig.examples`.

        Raises:
            ConfigError: a grid that the cache does not have, or regions that follow from labels.
        """
        if self.source == "cells":
            grids, places = chosen_grids(manifest, self.scales, "method.scales")
            return CellExamples(places, grids)
        if "labels" in manifest.stage_names and manifest.seen:
            raise ConfigError(
                f"method.source=regions: the regions of this cache are those of {len(manifest.seen)} annotated "
                "classes and of what these leave, and ZeroSeg learns without labels.",
                "Build a cache without seen classes: --no-labels",
            )
        return RegionExamples(manifest.num_classes)

    def build(self, facts: Facts) -> Method:
        """The method's module for a student."""
        from c2s.methods.zeroseg.method import (
            ZeroSeg,  # transformers, which `cache info` need not have
        )

        return ZeroSeg(self, facts)
