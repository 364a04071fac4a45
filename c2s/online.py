"""CLIP in the training loop: the builder's own stages, on the views of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from c2s.methods.examples import CutView, Look, TeacherOutput
from c2s.runs.config import TrainConfig
from c2s.shapes.defaults import own_mask_teacher, own_teacher
from c2s.training.processes import cluster_environment
from c2s.training.trainer import on_gpu
from c2s_cache import ConfigError, Manifest
from c2s_cache.plugins import CODE

if TYPE_CHECKING:
    from c2s_pipeline.teachers.base import Teacher


class OnlineTeacher:
    """Answers for each view what a cache of this manifest holds, at the cache's precision: cached and online runs then
    see the same numbers, and their losses stay together for as long as the arithmetic repeats.

    Args:
        manifest: of the cache.
        teacher: its teacher.
        paths: arrays that are asked for.
    """

    def __init__(self, manifest: Manifest, teacher: Teacher, paths: Sequence[str]) -> None:
        from c2s_pipeline.stages.registry import recorded_stages

        self.teacher, self.paths = teacher, paths
        facts = manifest.model_dump()
        for record in facts["stages"]:  # each view is a row
            record["axes"] = {
                axis: 1 if axis == "view" else n for axis, n in record["axes"].items()
            }
        self.manifest = Manifest.model_validate(facts)
        stages = {n: stage for n, stage in recorded_stages(manifest).items() if stage.live}
        asked = {manifest.owners[path] for path in paths}
        for record in reversed(manifest.stages):  # what an answer depends on is an answer, too
            asked |= set(record.upstream) & stages.keys() if record.name in asked else set()
        if lacking := asked - stages.keys():
            raise ConfigError(
                f"the teacher in the loop cannot answer for {', '.join(sorted(lacking))}: no stage that is known "
                "here, or none that is computed for every view.",
                "Train from the cache: --teacher cache",
            )
        self._stages = [stage for name, stage in stages.items() if name in asked]

    @property
    def looks(self) -> tuple[Look, ...]:
        """See `TeacherInTheLoop`: the native view and, where it differs, the dense one."""
        return self.manifest.teacher.looks

    def answer(self, views: Sequence[CutView]) -> list[TeacherOutput]:
        """See `c2s.training.online.TeacherInTheLoop`."""
        from c2s_pipeline.batch import Batch
        from c2s_pipeline.stages.views import keep_pixels

        samples = _Samples([view.sample.arrays for view in views])
        rows = range(len(views))
        names = [str(view.sample.row) for view in views]
        device = self.teacher.device.type
        batch = Batch(self.manifest, rows, names, samples, None, lambda: self.teacher, device)
        for i, look in enumerate(self.looks):
            keep_pixels(batch, *look, np.stack([view.images[i] for view in views]))
        for stage in self._stages:
            batch.add(stage.compute(batch))
        types = {path: self.manifest.arrays[path].dtype for path in self.paths}
        items = {path: batch.items(path) for path in self.paths}
        return [{path: items[path][i].astype(types[path]) for path in self.paths} for i in rows]


class _Samples:
    """What loader processes read of the views of a batch, as `c2s_pipeline.batch.Stored`."""

    def __init__(self, samples: Sequence[Mapping[str, NDArray[Any]]]) -> None:
        self._samples = samples

    def __contains__(self, path: str) -> bool:
        return path in self._samples[0]

    def item(self, path: str, row: int, view: int) -> NDArray[Any]:
        """The item of the view that is row number `row` of the batch."""
        return self._samples[row][path]


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
    from c2s_pipeline.teachers.recorded import (
        FILE_OR_FOLDER,
        load_recorded,
        named_weights,
        recorded_spec,
    )

    masked = manifest.teacher.mask_teacher
    if masked is not None and masked.name.startswith(CODE):
        raise ConfigError(
            f"masks of the cache are made by code, {masked.name}, which is not imported for training.",
            "Train from the cache: --teacher cache",
        )
    weights = config.teacher_weights or own_teacher(manifest.teacher.name)
    masks = own_mask_teacher(manifest.teacher)
    spec = recorded_spec(manifest, *named_weights(weights), masks)
    teacher = load_recorded(manifest, spec, device=_device(config), options=FILE_OR_FOLDER)
    return OnlineTeacher(manifest, teacher, sorted(config.method.examples(manifest).teacher_paths))


def _device(config: TrainConfig) -> str:
    return f"cuda:{cluster_environment(config).local_rank()}" if on_gpu(config) else "cpu"
