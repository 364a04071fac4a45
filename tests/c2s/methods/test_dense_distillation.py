"""Distillation of dense features against a plain formula; without its weight nothing is read and nothing changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_cache import DIM, GRID, SIZE, tiny_manifest, write_cache
from tiny_runs import settings

from c2s.methods import Facts
from c2s.methods.clip_to_seg import ClipToSegBatch, ClipToSegConfig
from c2s.methods.clip_to_seg.dense_distillation import dense_distillation
from c2s.methods.clip_to_seg.examples import PATHS
from c2s.methods.examples import cut_view
from c2s.training.run import build_module
from c2s.vocabulary import Vocabulary
from c2s_cache import CacheError, ConfigError, open_cache
from c2s_cache.block import Sample

DENSE = ClipToSegConfig(weights={"dense_distillation": 0.5}, dropout=0.0)
SEEN = Facts(Vocabulary(tuple("abc"), np.eye(3, DIM, dtype=np.float32)), 6)


def plain(features, tokens, extent, side):
    """Every position repeated until the cells of the grid are whole: the mean of each is then that of a block."""
    images, _, height, width = features.shape
    rows, columns = tokens.shape[1:3]
    large = features.repeat(rows, 2).repeat(columns, 3)
    terms = []
    for b in range(images):
        top, left, bottom, right = extent[b]
        for y in range(rows):
            for x in range(columns):
                cy, cx = (y + 0.5) * side / rows, (x + 0.5) * side / columns
                if top <= cy < bottom and left <= cx < right:
                    cell = large[b, :, y * height : (y + 1) * height, x * width : (x + 1) * width]
                    mean, token = cell.mean((1, 2)), tokens[b, y, x]
                    norms = np.linalg.norm(mean) * np.linalg.norm(token)
                    terms.append(1 - mean @ token / norms)
    return np.mean(terms)


@pytest.mark.parametrize("size", [(8, 12), (7, 5), (3, 2), (4, 6)])
def test_it_is_the_plain_formula(size):
    """Of maps that are finer than the grid, as fine, coarser, and of sides that do not divide."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(3, DIM, *size)).astype(np.float32)
    tokens = rng.normal(size=(3, 4, 6, DIM)).astype(np.float32)
    extent = np.array([(0, 0, 48, 48), (9, 0, 33, 48), (0, 5, 48, 21)])
    got = dense_distillation(*map(torch.from_numpy, (features, tokens, extent)), 48)
    assert got.item() == pytest.approx(plain(features, tokens, extent, 48), rel=1e-5)
    whole = np.tile((0, 0, 48, 48), (3, 1))
    got = dense_distillation(torch.from_numpy(features), torch.from_numpy(tokens), None, 48)
    assert got.item() == pytest.approx(plain(features, tokens, whole, 48), rel=1e-5)


def test_its_gradient_is_that_of_its_values():
    torch.manual_seed(0)
    features = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    tokens = torch.randn(2, 2, 3, 3, dtype=torch.float64)
    extent = torch.tensor([(0, 0, 12, 12), (0, 3, 12, 9)])
    assert torch.autograd.gradcheck(lambda f: dense_distillation(f, tokens, extent, 12), features)


def test_a_feature_map_of_the_teachers_tokens_costs_nothing_and_padding_never_does():
    torch.manual_seed(0)
    tokens = torch.randn(1, 3, 3, 4)
    map_ = (2 * tokens).permute(0, 3, 1, 2).clone().requires_grad_()
    assert dense_distillation(map_, tokens, None, 9).item() == pytest.approx(0, abs=1e-6)
    nothing = dense_distillation(map_, -tokens, torch.zeros(1, 4, dtype=torch.int64), 9)
    nothing.backward()
    assert nothing.item() == 0
    assert not map_.grad.any()


def batch(**more):
    torch.manual_seed(2)
    pseudo = torch.randint(0, 8, (2, SIZE, SIZE))
    return ClipToSegBatch(
        image=torch.zeros(2, 3, SIZE, SIZE, dtype=torch.uint8),
        pseudo=pseudo,
        global_cls=torch.randn(2, DIM),
        region_cls=torch.randn(2, 8, DIM),
        region_ids=torch.arange(8).expand(2, 8).clone(),
        **more,
    )


def test_without_its_weight_the_losses_are_the_same_bits():
    features, tokens = torch.randn(2, DIM, 8, 8), torch.randn(2, GRID, GRID, DIM)
    method = ClipToSegConfig(dropout=0.0).build(SEEN).eval()
    before, beside = method.losses(features, batch()), method.losses(features, batch(dense=tokens))
    assert before.keys() == beside.keys()
    assert "dense" not in before
    assert all(torch.equal(before[name], beside[name]) for name in before)
    torch.manual_seed(0)
    method = DENSE.build(SEEN).eval()
    method.load_state_dict(ClipToSegConfig(dropout=0.0).build(SEEN).state_dict())
    losses = method.losses(features, batch(dense=tokens))
    expected = dense_distillation(features, tokens, None, SIZE)
    torch.testing.assert_close(losses["dense"], expected)
    others = sum(losses[name] for name in ("global", "local", "pixel"))
    torch.testing.assert_close(losses["loss"], others + 0.5 * losses["dense"])


@pytest.mark.parametrize("tier", ["float16", "int8"])
def test_dense_features_are_read_where_they_weigh(tier, tmp_path):
    manifest = tiny_manifest(dense={"tier": tier})
    plain, dense = ClipToSegConfig().examples(manifest), DENSE.examples(manifest)
    own = {"dense/tokens", "dense/scale"} & manifest.arrays.keys()
    assert len(own) == 1 + (tier == "int8")
    assert plain.paths == PATHS
    assert dense.paths == plain.paths | own
    assert dense.teacher_paths == plain.teacher_paths | own
    block = open_cache(write_cache(tmp_path / "c.zarr")).read_block(0, PATHS)
    tokens = np.random.default_rng(0).integers(-127, 127, (GRID, GRID, DIM)).astype(tier)
    scale = np.full((GRID, GRID), 0.25, np.float16)
    sample = block.sample(0)
    sample = replace(sample, arrays={**sample.arrays, "dense/tokens": tokens})
    if tier == "int8":
        sample = Sample(sample.row, 0, {**sample.arrays, "dense/scale": scale})
    view = cut_view(sample, SIZE)
    made = dense.collate([dense.example(view, sample.arrays)] * 2).dense
    expected = tokens.astype(np.float32) * (0.25 if tier == "int8" else 1)
    assert made.dtype == torch.float32
    np.testing.assert_array_equal(made.numpy(), np.stack([expected] * 2))
    assert plain.collate([plain.example(view, sample.arrays)]).dense is None


def test_features_outside_the_joint_space_are_refused():
    manifest = tiny_manifest(dense={"tier": "float16"})
    teacher = manifest.teacher.model_copy(update={"dense_dim": 24, "dense_features": "mid"})
    manifest = manifest.model_copy(update={"teacher": teacher})
    assert ClipToSegConfig().examples(manifest).paths == PATHS
    with pytest.raises(
        ConfigError, match=r"features 'mid': they have 24 channels .* the 16 of"
    ) as error:
        DENSE.examples(manifest)
    assert "--dense-features plain" in error.value.hint


@pytest.mark.slow
def test_a_cache_without_them_is_refused_with_the_command_that_adds_them(tmp_path):
    cache = write_cache(tmp_path / "c.zarr")
    build_module(settings(cache, tmp_path))
    with pytest.raises(CacheError, match="lacks the stage dense") as error:
        build_module(settings(cache, tmp_path, method={"weights": {"dense_distillation": 1}}))
    assert "--out NEW --stage dense" in error.value.hint
