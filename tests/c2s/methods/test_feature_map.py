"""Readings of a feature map against the plain formulas, in both memory layouts."""

from __future__ import annotations

import itertools

import pytest
import torch

from c2s.methods.feature_map import FeatureMap

B, D, H, W, K = 2, 5, 3, 4, 3


@pytest.fixture(params=[torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def layout(request):
    return request.param


@pytest.fixture
def features(layout):
    torch.manual_seed(0)
    values = torch.randn(B, D, H, W, dtype=torch.float64)
    values[0, :, 1, 2] = 0  # a cell without length
    return values.to(memory_format=layout).requires_grad_()


def operands():
    torch.manual_seed(1)
    shapes = ((B, K, D), (B, K, H * W))
    return [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]


READINGS = {
    "products": lambda f, v, w: f.products(v),
    "sums": lambda f, v, w: f.sums(w),
    "norms": lambda f, v, w: f.norms(),
}
PLAIN = {
    "products": lambda f, v, w: torch.einsum("bdl,bkd->bkl", f.flatten(2), v),
    "sums": lambda f, v, w: torch.einsum("bdl,bkl->bkd", f.flatten(2), w),
    "norms": lambda f, v, w: f.flatten(2).norm(dim=1, keepdim=True),
}


@pytest.mark.parametrize(
    "order", [o for n in (1, 2, 3) for o in itertools.product(READINGS, repeat=n)], ids="-".join
)
def test_readings_in_any_order_are_the_plain_formulas(order, features, layout):
    vectors, weights = operands()
    fmap = FeatureMap(features)
    got = [READINGS[name](fmap, vectors, weights) for name in order]
    want = [PLAIN[name](features, vectors, weights) for name in order]
    for ours, plain in zip(got, want, strict=True):
        torch.testing.assert_close(ours, plain)
    inputs = (features, vectors, weights)
    torch.manual_seed(2)
    scale = [torch.randn_like(x) for x in want]
    sums = [sum((s * x).sum() for s, x in zip(scale, xs, strict=True)) for xs in (got, want)]
    ours, plain = (torch.autograd.grad(s, inputs, allow_unused=True) for s in sums)
    for mine, theirs in zip(ours, plain, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs)
    assert ours[0].is_contiguous(memory_format=layout)


def test_a_reading_may_feed_the_next_one_and_gradients_are_right_numerically(features):
    """As in C2S: attention weights come from one reading, class embeddings from the means of the next."""

    def loss(f, vectors):
        fmap = FeatureMap(f)
        means = fmap.sums(fmap.products(vectors).softmax(-1))
        return fmap.products(means) / (1 + fmap.norms())

    with torch.no_grad():
        features[0, :, 1, 2] = 0.3  # away from the norm's kink, where slopes are one-sided
    assert torch.autograd.gradcheck(loss, (features, operands()[0]))


@pytest.mark.parametrize("used", READINGS)
def test_readings_that_are_not_used_change_nothing(used, features):
    vectors, weights = operands()
    fmap = FeatureMap(features)
    found = {name: READINGS[name](fmap, vectors, weights) for name in (*READINGS, used, *READINGS)}
    got = torch.autograd.grad(found[used].sum(), (features, vectors, weights), allow_unused=True)
    plain = PLAIN[used](features, vectors, weights).sum()
    want = torch.autograd.grad(plain, (features, vectors, weights), allow_unused=True)
    for mine, theirs in zip(got, want, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs)


def test_a_second_backward_pass_gives_the_same(features):
    vectors, weights = operands()
    fmap = FeatureMap(features)
    loss = fmap.sums(weights).sum() + fmap.products(vectors).square().sum() + fmap.norms().sum()
    first, second = (torch.autograd.grad(loss, features, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_second_derivatives_are_refused(features):
    loss = FeatureMap(features).norms().square().sum()
    (slope,) = torch.autograd.grad(loss, features, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()
