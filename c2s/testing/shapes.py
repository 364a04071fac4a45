"""A small cache of Shapes scenes, built in this process, on which contracts try what they are given."""

from __future__ import annotations

import atexit
import shutil
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2s.datasets import load_dataset
from c2s.shapes.defaults import TEACHER
from c2s_cache import Cache, Manifest, open_cache
from c2s_cache.writer import BlockWriter, create_cache
from c2s_pipeline.build.block import BlockComputer
from c2s_pipeline.build.request import build_request, make_manifest
from c2s_pipeline.build.rows import part_of
from c2s_pipeline.source import ImageSource
from c2s_pipeline.stages.base import Once
from c2s_pipeline.teachers.base import Teacher, TeacherSpec
from c2s_pipeline.teachers.registry import load_teacher

ROWS = 4
SETTINGS: dict[str, Any] = {"teacher": TEACHER, "view_size": 64, "batch_size": 4, "block_rows": 4}


class Nothing:
    """Nothing is there of a block, as `c2s_pipeline.batch.Stored`."""

    def __contains__(self, path: str) -> bool:
        return False

    def item(self, path: str, row: int, view: int) -> NDArray[Any]:
        """None is asked for."""
        raise LookupError(path)


@lru_cache(maxsize=1)
def teacher() -> Teacher:
    """The teacher of the Shapes world."""
    return load_teacher(TeacherSpec(TEACHER))


@lru_cache(maxsize=1)
def scenes() -> ImageSource:
    """Its training scenes."""
    return load_dataset("shapes").split("train")


def manifest_of(stages: tuple[str, ...], settings: Mapping[str, Any] | None = None) -> Manifest:
    """A cache of a few scenes with these stages and what they need; `settings` are further ones of a request."""
    request = build_request(**{**SETTINGS, **(settings or {}), "stages": stages})
    return make_manifest(
        scenes(), request, [part_of(scenes(), scenes().ids[:ROWS])], teacher().info()
    )


def computed(manifest: Manifest, source: ImageSource) -> tuple[dict[str, Any], int]:
    """All values of a cache of one block, by path, and the images that went through the tower for them."""
    every = [stage.name for stage in manifest.stages if not stage.once]
    computer = BlockComputer(manifest, source, teacher)
    result = computer.compute(list(source.ids)[:ROWS], 0, every, Nothing())
    values = {path: v for arrays in result.stages.values() for path, v in arrays.items()}
    for stage in computer.stages.values():
        if stage.once:
            values |= stage.compute_once(Once(manifest, teacher(), lambda done, total: None))
    return values, result.passes.total()


@lru_cache(maxsize=8)
def shapes_cache(stages: tuple[str, ...]) -> Cache:
    """Such a cache, written and opened again."""
    manifest = manifest_of(stages)
    values, _ = computed(manifest, scenes())
    return written(manifest, values)


def written(manifest: Manifest, values: Mapping[str, NDArray[Any]]) -> Cache:
    """A cache of one block with these values, which goes with this process."""
    out = Path(mkdtemp(prefix="c2s-contract-")) / "shapes.zarr"
    atexit.register(shutil.rmtree, out.parent, ignore_errors=True)
    create_cache(out, manifest)
    writer = BlockWriter(out)
    for stage in manifest.stages:
        arrays = {path: np.asarray(values[path]) for path in stage.arrays}
        writer.write(stage.name, 0, arrays, {})
    return open_cache(out)
