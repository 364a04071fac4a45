"""The demo's student: shapes, cost, pretrained encoder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from c2s.shapes.scenes import SEEN
from c2s.students import create
from c2s.students.shapes_net import ENCODER, ShapesNet
from c2s_cache.errors import ConfigError


def test_features_at_half_resolution() -> None:
    student = create("shapes-net", dim=48, weights="random")
    assert isinstance(student, ShapesNet)
    assert student.dim == 48
    for height, width in ((64, 64), (32, 96)):
        features = student(torch.randn(2, 3, height, width))
        assert features.shape == (2, 48, height // student.stride, width // student.stride)


@pytest.mark.slow
def test_every_parameter_learns_and_the_cost_is_as_documented() -> None:
    student = ShapesNet(128, "random")
    student(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())
    parameters = sum(p.numel() for p in student.parameters())
    with FlopCounterMode(display=False) as counter:
        student.eval()(torch.randn(1, 3, 64, 64))
    assert f"{parameters / 1e6:.2f} M parameters" in (ShapesNet.__doc__ or "")
    assert f"{counter.get_total_flops() / 2e6:.0f} M MACs" in (ShapesNet.__doc__ or "")


def test_the_shipped_encoder_is_the_default_and_knows_seen_classes_only() -> None:
    card = json.loads((ENCODER.parent / "card.json").read_text())
    assert card["classes"] == list(SEEN)
    assert ENCODER.stat().st_size < 1_000_000
    own = ShapesNet(128).backbone.state_dict()
    for name, value in load_file(ENCODER).items():
        torch.testing.assert_close(own[name], value.to(own[name].dtype), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["missing", "text", "other"])
def test_weights_that_do_not_fit_are_refused_in_one_sentence(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    if kind == "text":
        path.write_text("no weights")
    if kind == "other":
        save_file({"stage1.0.0.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(ConfigError, match=r"encoder"):
        ShapesNet(128, str(path))
