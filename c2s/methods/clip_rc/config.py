"""What CLIP-RC asks of a cache, of the student and of the rest of the program."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from c2s.methods.base import Facts, Method, MethodConfig
from c2s.methods.clip_rc.examples import LabelExamples
from c2s.methods.clip_rc.method import ClipRC
from c2s.methods.clip_rc.paper import paper_row
from c2s.methods.clip_rc.settings import ClipRCSettings
from c2s.methods.grid import Grid
from c2s.students.base import Student
from c2s.students.clip_tower import stored_tower
from c2s.students.prompted_clip import PromptedCLIP
from c2s.students.prompting import Prompting, vit_b
from c2s.students.registry import create
from c2s_cache.errors import ConfigError
from c2s_cache.manifest import Manifest
from c2s_cache.reader import Cache
from c2s_cache.tower import TowerInfo

MANY: Mapping[str, Any] = {
    "prompts": 100,
    "weights": {"focal": 200.0, "dice": 3.0},
    "recovery": {"weight": 50.0},
}
"""Of data sets with many classes, as published for COCO-Stuff; nothing is for Context."""
SMALL: Mapping[str, Any] = {
    "prompts": 4,
    "bridge": 4,
    "heads": 4,
    "ffn": 512,
    "dropout": 0.0,
    "first_scores": 1.0,
}
"""Of a tower of width 128 and some hundred iterations, which scores that begin at 11 would take to come down."""


class ClipRCConfig(ClipRCSettings, MethodConfig):
    """The configuration of CLIP-RC, found by its name."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    stages: ClassVar[tuple[str, ...]] = ("views", "labels", "text", "tower")
    student: ClassVar[str] = "prompted-clip"
    kind: ClassVar[type[Student]] = PromptedCLIP
    any_view: ClassVar[bool] = True
    seen_offset: ClassVar[float] = 0.1
    defaults: ClassVar[Mapping[str, Any]] = {
        "views": "fresh",
        "lr": 2e-5,  # of the tower, which is frozen; everything else learns ten times as fast
        "head_lr_mult": 10.0,
        "poly_power": 0.9,
        "final_lr": 0.005,  # 1e-6 of 2e-4
    }
    by_dataset: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "voc": {"iterations": 40_000},
        "context": {"iterations": 40_000, "method": MANY},
        "context-bg": {"iterations": 40_000, "method": MANY},
        "coco-stuff": {"iterations": 80_000, "method": MANY},
        "shapes": {
            "student": "prompted-clip",
            "lr": 1e-3,
            "head_lr_mult": 2.0,
            "method": SMALL,
        },
    }

    name: Literal["clip-rc"] = "clip-rc"

    @classmethod
    def tables(cls) -> Mapping[str, Grid]:
        """Tables 5 to 8."""
        from c2s.methods.clip_rc.tables import TABLES

        return TABLES

    def paper(self, dataset: str, student: str, transductive: bool) -> dict[str, float] | None:
        """Rows of Tables 1 and 2."""
        return paper_row(dataset, transductive) if student == type(self).student else None

    def new_student(self, name: str, weights: str | None, cache: Cache) -> Student:
        """The student on the cache's own tower; with weights "random", on one of its size.

        Raises:
            ConfigError: weights of another kind, or a size that does not fit the tower.
            CacheError: the stored tower is damaged, or another teacher's.
        """
        if name != type(self).student:
            return super().new_student(name, weights, cache)
        tower, tensors = stored_tower(cache)
        require_cells(self.bridge, cache.manifest.view_size, tower.patch)
        student = create(name, tower.dim, weights, self.architecture(tower))
        assert isinstance(student, PromptedCLIP)
        if weights is None:
            student.load_tower(tensors)
        if tower.pool == "avg":
            said = "the tower pools by averaging: G and the bridge are means of patches, without tokens of their own."
            print(f"note: {said}", file=sys.stderr)
        return student

    def blank_student(self, name: str, dim: int, size: int | None = None) -> Student:
        """On a tower of the size of ViT-B/16."""
        tower = vit_b(dim)
        if size is not None:
            require_cells(self.bridge, size, tower.patch)
        return create(name, dim, "random", self.architecture(tower))

    def require_fit(self, manifest: Manifest) -> None:
        """See `MethodConfig.require_fit`: the bridge divides a view's patches, where the manifest tells their size."""
        teacher = manifest.teacher
        if teacher.mask_teacher is None:
            patch = teacher.dense_size // teacher.grid[0]
            require_cells(self.bridge, manifest.view_size, patch)

    def architecture(self, tower: TowerInfo) -> dict[str, Any]:
        """What the student's name leaves open."""
        own = self.model_dump(mode="json", include=set(Prompting.model_fields))
        return {**own, "tower": tower.model_dump(mode="json")}

    def examples(self, manifest: Manifest, transductive: bool = False) -> LabelExamples:
        """See `MethodConfig.examples`."""
        return LabelExamples(transductive)

    def build(self, facts: Facts) -> Method:
        """The method's module: inductive from the seen classes, transductive with the unseen ones."""
        return ClipRC(self, facts)


def require_cells(bridge: int, view: int, patch: int) -> None:
    """Refuse a bridge whose regions are not of one size in a training view.

    Args:
        bridge: M, a square number.
        view: side in pixels.
        patch: side in pixels of the tower's patches.

    Raises:
        ConfigError: they are not.
    """
    side, patches = math.isqrt(bridge), -(-view // patch)
    if side and patches % side:
        fit = [n * n for n in range(1, patches + 1) if patches % n == 0]
        raise ConfigError(
            f"method.bridge={bridge}: {side} x {side} regions do not divide the {patches} x {patches} "
            f"patches of a view of {view} pixels.",
            f"Those that do: {', '.join(map(str, fit))}.",
        )
