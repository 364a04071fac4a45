"""What ZeroSeg reads of a cache, that no label has a part in its runs, and how they are validated and tested."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import tiny_runs
import torch
from tiny_cache import tiny_manifest

from c2s.datasets import descriptor
from c2s.methods.zeroseg import (
    CellExamples,
    RegionExamples,
    ZeroSegConfig,
)
from c2s.runs.checkpoint import read_state
from c2s.runs.config import ValidationConfig
from c2s.students.grouping import Grouped, GroupingSettings, GroupingStudent
from c2s.testing import shapes
from c2s.training import run
from c2s.training.logs import read_metrics
from c2s.training.validation import Validation, ValidationSet
from c2s_cache import ConfigError, open_cache
from c2s_pipeline.stages.registry import closed

SMALL = {"decoder": {"layers": 1, "width": 32, "heads": 4}}


def with_cells(scales=(2, 3, 4)):
    """The manifest of a cache with cells."""
    manifest = tiny_manifest()
    cells = manifest.stages[3].model_copy(
        update={"name": "cells", "settings": {"scales": list(scales)}, "arrays": {}}
    )
    return manifest.model_copy(update={"stages": (*manifest.stages, cells)})


def test_scales_are_a_slice_of_the_cells():
    def cells(**settings):
        examples = ZeroSegConfig(**settings).examples(with_cells())
        assert isinstance(examples, CellExamples)
        return examples.cells, examples.scales

    assert cells() == (list(range(29)), (2, 3, 4))
    assert cells(scales=(1, 4)) == (list(range(13, 29)), (4,))
    assert cells(scales=(4, 2)) == ([*range(4), *range(13, 29)], (2, 4))
    assert cells(scales=(1,)) == ([], ())
    with pytest.raises(ConfigError, match=r"cells of the grids \[2, 3, 4\], not of \[5\]"):
        cells(scales=(5,))


def test_regions_that_follow_labels_are_refused():
    manifest = tiny_manifest()
    with pytest.raises(ConfigError, match="regions of this cache are those of 4 annotated classes"):
        ZeroSegConfig(source="regions").examples(manifest)
    every = manifest.model_copy(update={"unseen": tuple(range(6))})
    assert isinstance(ZeroSegConfig(source="regions").examples(every), RegionExamples)


def test_a_run_tests_at_twice_its_size():
    config = ZeroSegConfig()
    found = config.protocol(descriptor.TestProtocol(), 224)
    assert (found.view_size, found.stride, found.short_side) == (448, 224, 448)
    small = config.protocol(descriptor.TestProtocol(64, 53, 64), 64)
    assert (small.view_size, small.stride, small.short_side) == (64, 53, 64)


@pytest.fixture(scope="module")
def label_free(tmp_path_factory):
    """Two caches of one data set's images, whose labels, names and text have nothing in common."""
    stages = closed(("labels", "views", "global_cls", "cells", "text"))
    found = []
    for garbage in (False, True):
        manifest = shapes.manifest_of(stages)
        values, _ = shapes.computed(manifest, shapes.scenes())
        if garbage:
            rng = np.random.default_rng(0)
            values["labels/data"] = rng.choice(manifest.seen, values["labels/data"].shape)
            values["labels/ignored"] = np.zeros_like(values["labels/ignored"])
            text = rng.normal(size=values["text/embeddings"].shape)
            values["text/embeddings"] = text / np.linalg.norm(text, axis=1, keepdims=True)
            names = tuple(f"no{i}" for i in range(len(manifest.classes)))
            manifest = manifest.model_copy(update={"classes": names, "unseen": (0, 5)})
        found.append(shapes.written(manifest, values).address)
    return found


@pytest.mark.slow
def test_labels_names_and_text_have_no_part_in_training(label_free, tmp_path):
    def trained(number):
        config = tiny_runs.settings(
            str(label_free[number]),
            tmp_path / str(number),
            student="zeroseg-shapes",
            iterations=3,
            image_size=64,
            method={"name": "zeroseg", **SMALL, "locate": 1, "center": True},
        )
        path = run.train(config)
        records = [{k: v for k, v in r.items() if k != "images_per_s"} for r in read_metrics(path)]
        return records, read_state(path).files

    first, second = trained(0), trained(1)
    assert first == second
    labels = [
        open_cache(p).read_block(0, ["labels/data"]).sample(0)["labels/data"] for p in label_free
    ]
    assert not np.array_equal(*labels)


class Scene:
    """A labelled image for validation: one class above the other."""

    id = "scene"

    def read(self):
        labels = np.zeros((64, 64), np.uint8)
        labels[32:] = 4
        return np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), labels


class HalvesStudent(GroupingStudent):
    """Cuts every image into its upper and its lower half, and calls both by the first class."""

    how, scale, width, patch, grid, segments = GroupingSettings(), 1.0, 8, 8, 8, 2

    def __init__(self, dim):
        super().__init__()
        self.dim, self.backbone = dim, torch.nn.Identity()

    def forward(self, images, mask_ratio=0.0, noise=None):
        maps = torch.zeros(len(images), 2, 64)
        maps[:, 0, :32] = maps[:, 1, 32:] = 1
        return Grouped(torch.ones(len(images), 2, self.dim), *([maps] * 5))._replace(maps=maps)


def test_validation_scores_the_grouping_by_itself(label_free):
    """Right halves with wrong names: the oracle finds nothing wrong."""
    cache = open_cache(label_free[0])
    data = ValidationSet([Scene()], descriptor.TestProtocol(64, 53, 64))
    validation = Validation(ValidationConfig(every=1), data, cache, 64)
    student = HalvesStudent(cache.manifest.teacher.dim)
    module = SimpleNamespace(
        trained_student=student,
        device=torch.device("cpu"),
        config=SimpleNamespace(method=ZeroSegConfig()),
    )
    same = SimpleNamespace(reduce=lambda counts, reduce_op: counts)
    found = validation.scores(SimpleNamespace(global_rank=0, world_size=1, strategy=same), module)
    assert found["val/oracle_mIoU"] == 100
    assert found["val/mIoU"] <= 50
