"""Distillation against loops, and what changes nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from c2s.methods.gkc.distillation import distil

D = 6


def drawn(seed, count=None):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 8)) if count is None else count
    z, r, t = (torch.from_numpy(rng.normal(size=(count, D))) for _ in range(3))
    image = torch.from_numpy(np.sort(rng.integers(0, 3, count)))
    latent = torch.from_numpy(rng.random(count) < 0.3)
    return z, r, t, image, latent


def unit(v):
    norm = math.sqrt(sum(x * x for x in v))
    return [x / norm for x in v]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def far(a, b):
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def loops(kind, z, r, t, image, latent, scale, distance):
    z, r, t = ([unit(row) for row in v.tolist()] for v in (z, r, t))
    n, image, latent = len(z), image.tolist(), latent.tolist()
    own = [far(z[i], r[i]) ** (2 if distance == "squared" else 1) for i in range(n)]
    if kind == "vanilla":
        return sum(own) / n
    terms, per_image = [], {}
    for i in range(n):
        for j in range(n):
            if image[i] != image[j]:
                continue
            by_tokens = kind == "vision" or latent[i] or latent[j]
            if distance == "squared":
                want = dot(r[i], r[j]) if by_tokens else scale * dot(t[i], t[j])
                terms.append((want - dot(z[i], r[j])) ** 2)
            else:
                want = far(r[i], r[j]) if by_tokens else far(t[i], t[j])
                per_image.setdefault(image[i], []).append(abs(far(z[i], r[j]) - want))
    if distance == "squared":
        return (sum(own) + sum(terms)) / (n + len(terms))
    return sum(sum(v) / image.count(k) for k, v in per_image.items()) / len(per_image)


@pytest.mark.parametrize("kind", ["vanilla", "vision", "text"])
@pytest.mark.parametrize("distance", ["squared", "euclidean"])
@given(st.integers(0, 2**32 - 1), st.floats(0.2, 3))
def test_against_loops(kind, distance, seed, scale):
    z, r, t, image, latent = drawn(seed)
    got = distil(kind, z, r, t, image, latent, torch.tensor(scale), distance)
    want = loops(kind, z, r, t, image, latent, scale, distance)
    assert float(got) == pytest.approx(want, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("kind", ["vanilla", "vision", "text"])
def test_a_student_that_is_the_teacher_has_nothing_to_learn(kind):
    """Of texts: where these stand to each other as the tokens do."""
    _, r, _, image, latent = drawn(1, 5)
    loss = distil(kind, 3 * r, r, r, image, latent, torch.tensor(1.0), "squared")
    assert float(loss) == pytest.approx(0, abs=1e-9)


@given(st.integers(0, 2**32 - 1))
def test_order_and_length_decide_nothing(seed):
    z, r, t, image, latent = drawn(seed)
    scale = torch.tensor(0.8)
    want = distil("text", z, r, t, image, latent, scale, "squared")
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(z)))
    moved = [v[order] for v in (2 * z, 3 * r, 5 * t, image, latent)]
    torch.testing.assert_close(distil("text", *moved, scale, "squared"), want)
    numbered = distil("text", z, r, t, image + 7, latent, scale, "squared")
    torch.testing.assert_close(numbered, want)


def test_without_segments_there_is_no_loss():
    z, r, t, image, latent = (v[:0] for v in drawn(0, 3))
    z.requires_grad_()
    loss = distil("text", z, r, t, image, latent, torch.tensor(1.0), "squared")
    assert float(loss.detach()) == 0
    loss.backward()


@pytest.mark.parametrize("distance", ["squared", "euclidean"])
def test_gradients_are_finite_at_the_teacher_itself(distance):
    _, r, t, image, latent = drawn(2, 4)
    z = r.clone().requires_grad_()
    distil("text", z, r, t, image, latent, torch.tensor(1.0), distance).backward()
    assert bool(z.grad.isfinite().all())
