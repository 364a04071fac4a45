"""What GKC asks of a cache, of the student and of the rest of the program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from c2s.methods.base import Facts, Method, MethodConfig
from c2s.methods.gkc.examples import GKCExamples
from c2s.methods.gkc.method import GKC
from c2s.methods.gkc.settings import GKCSettings
from c2s.methods.grid import Grid
from c2s.students.base import Student
from c2s.students.query import QueryStudent
from c2s_cache.manifest import Manifest


class GKCConfig(GKCSettings, MethodConfig):
    """The configuration of GKC (Han et al., ICCV 2023), found by its name."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    stages: ClassVar[tuple[str, ...]] = ("labels", "segments", "views", "text", "words")
    beside: ClassVar[tuple[str, ...]] = ("instances", "clips", "captions")
    student: ClassVar[str] = "mask2former:resnet50"
    kind: ClassVar[type[Student]] = QueryStudent  # type: ignore[type-abstract]
    defaults: ClassVar[Mapping[str, Any]] = {
        "views": "fresh",
        "augment": {"ratio": [0.8, 1.2], "category_max_ratio": 1.0},
        "lr": 3e-5,  # of the backbone; ten times that elsewhere
        "weight_decay": 0.05,
        "clip_norm": 0.01,
        "schedule": "step",
        "milestones": [0.8, 0.9],
        "warmup": 0,
    }
    by_dataset: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "coco-panoptic": {"iterations": 50_000, "batch_size": 112, "jitter": False},
        "shapes": {  # a matter of time, and of a teacher that knows regions on black
            "student": "mask2former:shapes",
            "iterations": 400,
            "batch_size": 16,
            "lr": 3e-4,
            "head_lr_mult": 1 / 0.3,
            "weight_decay": 0.05,
            "clip_norm": None,
            "schedule": "poly",
            "views": "cached",
            "method": {"points": 0, "teacher_token": "global"},
        },
    }

    name: Literal["gkc"] = "gkc"

    @property
    def any_view(self) -> bool:  # type: ignore[override]
        """Segments are cut from the image; regions from a view."""
        return not self._regions

    @property
    def clip_frames(self) -> int:
        """See `MethodConfig.clip_frames`."""
        return self.frames

    @property
    def _regions(self) -> bool:
        return self.tokens == "regions" or self.latent != "none"

    @classmethod
    def tables(cls) -> Mapping[str, Grid]:
        """Tables 4 to 7, and the demo's."""
        from c2s.methods.gkc.tables import TABLES

        return TABLES

    def read_stages(self) -> tuple[str, ...]:
        """Those of the tokens, of the words where they are learnt, and of captions where these are."""
        words = self.synonyms.how != "off" or bool(self.weights.grounding)
        return (
            *("labels", "views", "text"),
            *(("segments",) if self.tokens == "segments" else ()),
            *(("words",) if words else ()),
            *(("captions",) if self.weights.grounding else ()),
            *(("masks", "regions") if self._regions else ()),
        )

    def examples(self, manifest: Manifest, transductive: bool = False) -> GKCExamples:
        """See `MethodConfig.examples`."""
        return GKCExamples(
            manifest,
            segments=self.tokens == "segments",
            token=self.teacher_token,
            latent=self.latent != "none",
            captions=self.weights.grounding > 0,
            frames=self.frames,
        )

    def build(self, facts: Facts) -> Method:
        """The method's module."""
        return GKC(self, facts)
