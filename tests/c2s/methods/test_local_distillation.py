"""Local distillation against Eq. 5 and 6, written out as loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from c2s.methods.clip_to_seg.local_distillation import (
    local_info_nce,
    reduce_regions,
    region_means,
)
from c2s.methods.feature_map import FeatureMap


def naive_means(features, pseudo, region_ids):
    """Eq. 5, pixel by pixel; each pixel takes the feature of the cell it lies in."""
    batch, dim, height, width = features.shape
    rows, cols = pseudo.shape[1:]
    out = torch.zeros(batch, region_ids.shape[1], dim, dtype=features.dtype)
    counts = torch.zeros(region_ids.shape, dtype=torch.int64)
    for b in range(batch):
        for r, wanted in enumerate(region_ids[b].tolist()):
            for y in range(rows):
                for x in range(cols):
                    if wanted >= 0 and pseudo[b, y, x] == wanted:
                        out[b, r] += features[b, :, y * height // rows, x * width // cols]
                        counts[b, r] += 1
            if counts[b, r]:
                out[b, r] /= counts[b, r]
    return out, counts


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 9),
    cols=st.integers(1, 9),
    cells=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    regions=st.integers(0, 4),
)
def test_region_means_are_equation_5(seed, rows, cols, cells, regions):
    torch.manual_seed(seed)
    features = torch.randn(2, 3, *cells, dtype=torch.float64)
    pseudo = torch.randint(-1, 5, (2, rows, cols))
    ids = torch.stack([torch.randperm(7)[:regions] - 1 for _ in range(2)])
    means, counts = region_means(FeatureMap(features), pseudo, ids)
    expected, expected_counts = naive_means(features, pseudo, ids)
    assert torch.equal(counts, expected_counts)
    torch.testing.assert_close(means, expected)


def test_region_means_at_equal_resolution_are_plain_means():
    features = torch.randn(1, 4, 5, 6)
    pseudo = torch.randint(0, 2, (1, 5, 6))
    means, _ = region_means(FeatureMap(features), pseudo, torch.tensor([[1]]))
    torch.testing.assert_close(means[0, 0], features[0][:, pseudo[0] == 1].mean(1))


def test_a_one_pixel_region_does_not_vanish():
    pseudo = torch.zeros(1, 16, 16, dtype=torch.int64)
    pseudo[0, 13, 2] = 4
    features = torch.randn(1, 2, 4, 4)
    means, counts = region_means(FeatureMap(features), pseudo, torch.tensor([[4]]))
    assert counts.item() == 1
    torch.testing.assert_close(means[0, 0], features[0, :, 3, 0])


def naive_info_nce(f, c, valid, tau, reduction, allowed):
    """Eq. 6 with -log, region by region. `allowed((b, i), (k, j))` says who is in the
    denominator."""
    norm = torch.nn.functional.normalize
    f, c = norm(f, dim=-1), norm(c, dim=-1)
    slots = [(b, i) for b in range(f.shape[0]) for i in range(f.shape[1]) if valid[b, i]]
    images = {}
    for own in slots:
        top = math.exp(float(f[own] @ c[own]) / tau)
        bottom = sum(math.exp(float(f[own] @ c[o]) / tau) for o in slots if allowed(own, o))
        images.setdefault(own[0], []).append(-math.log(top / bottom))
    per_image = [sum(t) if reduction == "sum" else sum(t) / len(t) for t in images.values()]
    return sum(per_image) / max(len(per_image), 1)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_info_nce_is_equation_6_within_each_image(reduction, seed):
    torch.manual_seed(seed)
    f, c = torch.randn(3, 4, 5, dtype=torch.float64), torch.randn(3, 4, 5, dtype=torch.float64)
    valid = torch.rand(3, 4) < 0.6
    expected = naive_info_nce(f, c, valid, 0.3, reduction, lambda a, b: a[0] == b[0])
    assert local_info_nce(f, c, valid, 0.3, reduction=reduction).item() == pytest.approx(expected)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_batch_negatives_leave_out_the_same_seen_class_elsewhere(seed):
    torch.manual_seed(seed)
    f, c = torch.randn(3, 3, 5, dtype=torch.float64), torch.randn(3, 3, 5, dtype=torch.float64)
    ids = torch.stack([torch.randperm(5)[:3] for _ in range(3)])  # 0..2 seen, 3..4 latent
    ids[torch.rand(3, 3) < 0.2] = -1
    valid = ids >= 0

    def allowed(a, b):
        return a[0] == b[0] or ids[a] != ids[b] or ids[a] >= 3

    expected = naive_info_nce(f, c, valid, 0.3, "sum", allowed)
    got = local_info_nce(f, c, valid, 0.3, negatives="batch", region_ids=ids, first_latent_id=3)
    assert got.item() == pytest.approx(expected)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), threshold=st.floats(-0.9, 0.9))
def test_batch_negatives_leave_out_regions_elsewhere_whose_tokens_are_alike(seed, threshold):
    torch.manual_seed(seed)
    f, c = torch.randn(3, 3, 4, dtype=torch.float64), torch.randn(3, 3, 4, dtype=torch.float64)
    ids = torch.full((3, 3), 9)  # all latent: the id says nothing
    valid = torch.rand(3, 3) < 0.8
    unit = torch.nn.functional.normalize(c, dim=-1)

    def allowed(a, b):
        return a[0] == b[0] or float(unit[a] @ unit[b]) <= threshold

    expected = naive_info_nce(f, c, valid, 0.3, "sum", allowed)
    options = {
        "negatives": "batch",
        "region_ids": ids,
        "first_latent_id": 3,
        "same_class": threshold,
    }
    assert local_info_nce(f, c, valid, 0.3, **options).item() == pytest.approx(expected)


@pytest.mark.parametrize("negatives", ["image", "batch"])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_teacher_targets_are_a_divergence_of_the_two_softmaxes(negatives, seed):
    torch.manual_seed(seed)
    f, c = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)
    ids = torch.arange(6).view(2, 3) + 10
    valid = torch.rand(2, 3) < 0.8
    norm = torch.nn.functional.normalize
    fu, cu = norm(f, dim=-1), norm(c, dim=-1)
    total, images = 0.0, set()
    for b, i in valid.nonzero().tolist():
        images.add(b)
        slots = [(k, j) for k, j in valid.nonzero().tolist() if negatives == "batch" or k == b]
        student = [math.exp(float(fu[b, i] @ cu[s]) / 0.3) for s in slots]
        teacher = [math.exp(float(cu[b, i] @ cu[s]) / 0.3) for s in slots]
        for s, t in zip(student, teacher, strict=True):
            t = t / sum(teacher)
            total += t * math.log(t / (s / sum(student)))
    options = {
        "negatives": negatives,
        "region_ids": ids,
        "first_latent_id": 3,
        "targets": "teacher",
    }
    got = local_info_nce(f, c, valid, 0.3, **options)
    assert got.item() == pytest.approx(total / max(len(images), 1), abs=1e-9)


def test_a_student_that_is_the_teacher_has_no_loss_under_teacher_targets():
    c = torch.randn(2, 3, 8, requires_grad=True)
    valid = torch.tensor([[True, True, False], [True, True, True]])
    loss = local_info_nce(c, c.detach(), valid, 0.07, targets="teacher")
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert c.grad is not None
    assert c.grad.isfinite().all()


def test_the_area_mean_weighs_regions_by_their_pixels():
    terms = torch.tensor([[1.0, 5.0, 100.0], [7.0, 0.0, 0.0], [3.0, 3.0, 3.0]])
    valid = torch.tensor([[True, True, False], [True, False, False], [False] * 3])
    pixels = torch.tensor([[3, 1, 50], [9, 0, 0], [4, 4, 4]])
    assert reduce_regions(terms, valid, "area", pixels).item() == pytest.approx((2 + 7) / 2)
    assert reduce_regions(terms, valid, "mean").item() == pytest.approx((3 + 7) / 2)
    assert reduce_regions(terms, valid, "sum").item() == pytest.approx((6 + 7) / 2)


def test_the_printed_dot_product():
    f, c = torch.tensor([[[1.0, 2.0], [0.0, 1.0]]]), torch.tensor([[[2.0, 0.0], [1.0, 1.0]]])
    terms = [
        -math.log(math.exp(2) / (math.exp(2) + math.exp(3))),
        -math.log(math.exp(1) / (math.exp(0) + math.exp(1))),
    ]
    valid = torch.ones(1, 2, dtype=torch.bool)
    assert local_info_nce(f, c, valid, 1.0, normalize=False).item() == pytest.approx(sum(terms))


def test_padding_and_single_regions_give_zero_loss_and_finite_gradients():
    f = torch.randn(2, 3, 4, requires_grad=True)
    valid = torch.tensor([[True, False, False], [False, False, False]])
    loss = local_info_nce(f, torch.zeros(2, 3, 4), valid, 0.07)
    loss.backward()
    assert loss.item() == 0
    assert f.grad is not None
    assert torch.equal(f.grad, torch.zeros_like(f))
