"""Residual feature distillation: what the projector is at first, and what its parts do."""

from __future__ import annotations

import torch
from torch.nn.functional import gelu, normalize

from c2s.methods.clip_to_seg.residual import ResidualProjector


def test_at_first_nothing_but_the_length_is_corrected():
    features = 3 * torch.randn(2, 5, 8)
    torch.testing.assert_close(ResidualProjector(8)(features), normalize(features, dim=-1))


def test_the_correction_is_the_scaled_mlp_of_the_unit_vector():
    projector = ResidualProjector(4, scale=0.5)
    with torch.no_grad():
        projector.mlp[2].weight.normal_()
    x = torch.randn(3, 4)
    z = x / x.norm(dim=-1, keepdim=True)
    first, second = projector.mlp[0].weight, projector.mlp[2].weight
    torch.testing.assert_close(projector(x), z + 0.5 * gelu(z @ first.T) @ second.T)


def test_features_get_a_gradient_from_the_start():
    projector, x = ResidualProjector(6), torch.randn(2, 6, requires_grad=True)
    projector(x)[:, 0].sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert projector.mlp[2].weight.grad.abs().sum() > 0  # so the correction starts to learn
