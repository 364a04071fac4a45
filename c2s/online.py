"""CLIP in the training loop: the builder's own functions, on the views of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from c2s.methods.clip_to_seg.examples import GLOBAL_CLS, GRID, REGION_CLS, REGION_ID
from c2s.methods.examples import BOX, FLIP, CutView, TeacherOutput, source_labels
from c2s.runs.config import TrainConfig
from c2s.shapes.defaults import own_teacher
from c2s.training.processes import cluster_environment
from c2s_cache import Manifest

if TYPE_CHECKING:
    from c2s_pipeline.view_teacher import ViewTeacher


class OnlineTeacher:
    """Answers for each view what a cache of this manifest holds.

    Tokens are rounded to float16 as a cache rounds them: cached and online runs then see the same
    numbers, and their losses stay together for as long as the arithmetic repeats.

    Args:
        manifest: of the cache.
        teacher: its teacher.
    """

    def __init__(self, manifest: Manifest, teacher: ViewTeacher) -> None:
        self.teacher = teacher
        native, dense = manifest.teacher.image_size, manifest.teacher.dense_size
        self._sizes = (native,) if native == dense else (native, dense)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sides of the views it looks at: the native size and, where it differs, the dense one."""
        return self._sizes

    def answer(self, views: Sequence[CutView]) -> list[TeacherOutput]:
        """See `c2s.training.online.OnlineTeacher`."""
        from c2s_pipeline.view_teacher import View

        shown = [
            View(
                source_labels(v.sample),
                v.sample[BOX],
                bool(v.sample[FLIP]),
                v.images[0],
                v.images[-1],
            )
            for v in views
        ]
        cls, tokens = self.teacher.tokens(shown)
        assert cls is not None
        assert tokens is not None
        grids = self.teacher.grids(shown, tokens)
        regions = self.teacher.regions(shown, grids)
        return [
            {
                GRID: grid,
                GLOBAL_CLS: one.astype(np.float16),
                REGION_CLS: region_cls.astype(np.float16),
                REGION_ID: region.ids,
            }
            for grid, one, (region, region_cls) in zip(grids, cls, regions, strict=True)
        ]


def load_online_teacher(config: TrainConfig, manifest: Manifest) -> OnlineTeacher:
    """Load the CLIP model that a cache was built with, for `c2s.training.run.train`.

    Args:
        config: of the run; its accelerator decides where the teacher computes.
        manifest: of the cache.

    Raises:
        MissingExtra: the build extra is not installed.
        C2SError: the weights cannot be found, or are other ones than the cache's.
    """
    from c2s_pipeline.extras import require

    require("open_clip", "build")
    from c2s_pipeline.kmeans import create_backend
    from c2s_pipeline.teachers.recorded import (
        FILE_OR_FOLDER,
        load_recorded,
        named_weights,
        recorded_spec,
    )
    from c2s_pipeline.view_teacher import ViewTeacher

    weights = config.teacher_weights or own_teacher(manifest.teacher.name)
    spec = recorded_spec(manifest, *named_weights(weights))
    teacher = load_recorded(manifest, spec, device=_device(config), options=FILE_OR_FOLDER)
    backend = create_backend(manifest.requests["masks"]["backend"], teacher.device)
    return OnlineTeacher(manifest, ViewTeacher(manifest, teacher, backend))


def _device(config: TrainConfig) -> str:
    if config.accelerator == "cpu" or not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{cluster_environment(config).local_rank()}"
