"""The teacher's part on a device that is not the CPU: the same values, no tensor left behind."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import tiny_towers
import torch
from second_device import DEVICES, here, near, other_device

from c2s_cache import open_cache
from c2s_pipeline.build.verify import spot_check
from c2s_pipeline.clustering.torch_kmeans import TorchKMeans
from c2s_pipeline.teachers.base import TeacherSpec
from c2s_pipeline.teachers.registry import load_teacher
from c2s_pipeline.teachers.tower import DenseFeatures


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dense_size", [pytest.param(32, marks=pytest.mark.slow), 48])
@pytest.mark.parametrize("variant", [v for v in get_args(DenseFeatures) if v != "pooled"])
def test_tokens(tiny_teacher, variant, dense_size, device):
    images = [
        np.random.default_rng(0).integers(0, 256, (3, s, s, 3), dtype=np.uint8)
        for s in (32, dense_size)
    ]
    spec = TeacherSpec(tiny_teacher, None, dense_size=dense_size, dense_features=variant)

    def answers(device):
        teacher = load_teacher(spec, device)
        words = teacher.text.embed_text(["a photo of a cat", "sky"])
        return teacher.embed_images(images[0]), *teacher.dense(images[1]), words

    with torch.inference_mode(), other_device(device) as waits:
        there = answers(device)
    assert not waits
    for got, want in zip(there, answers("cpu"), strict=True):
        torch.testing.assert_close(here(got), want, **near(device))


@pytest.mark.parametrize("device", DEVICES)
def test_clusters(device):
    """Ragged, with seeds that win nothing and clusters that run empty."""
    rng = np.random.default_rng(0)
    tokens = [rng.standard_normal((n, 4)).astype(np.float32) for n in (1, 5, 20, 31, 32, 33, 200)]
    seeds = [np.concatenate([t[: 1 + len(t) // 3], t[:1] + 9]) for t in tokens]
    with torch.inference_mode(), other_device(device) as waits:
        got = TorchKMeans(device).fit(tokens, seeds, 10)
    for ours, want in zip(got, TorchKMeans().fit(tokens, seeds, 10), strict=True):
        np.testing.assert_array_equal(ours, want)
    # A few times an iteration for all images of like size together, whatever their number.
    assert waits.total() < 5 * 10 * 5


@pytest.mark.parametrize("device", DEVICES)
def test_a_cache_is_what_the_other_device_says(built_views, tiny_teacher, device):
    """The whole way from view to region tokens, as the live check goes it."""
    with torch.inference_mode(), other_device(device):
        teacher = load_teacher(TeacherSpec(tiny_teacher, None), device)
        found = spot_check(open_cache(built_views[0]), teacher, [0, 2, 4])
    assert found.findings == ()
    assert min(likeness.value for likeness in found.worst.values()) > 0.9999


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "name",
    [
        name if name in ("tiny_eva", "tiny_map") else pytest.param(name, marks=pytest.mark.slow)
        for name in tiny_towers.configurations()
    ],
)
def test_every_family(name, device):
    """At another size than the native one."""
    with torch.inference_mode():
        variants = load_teacher(TeacherSpec(name, "random")).tower.variants
    for variant in variants[:2] + variants[-1:]:
        side = 64 if name not in ("tiny_resnet", "tiny_convnext", "tiny_fastvit") else 96
        spec = TeacherSpec(name, "random", dense_size=side, dense_features=variant)
        wide = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
        with torch.inference_mode(), other_device(device) as waits:
            there = load_teacher(spec, device).dense(wide)
        assert not waits
        for got, want in zip(there, load_teacher(spec, "cpu").dense(wide), strict=True):
            torch.testing.assert_close(here(got), want, **near(device))
