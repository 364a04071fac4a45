"""Students by name: width, resolution, sums of Table III, weights, parameter groups."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from c2s.students import NAMES, create
from c2s.students.base import parameter_groups
from c2s.students.cost import student_cost
from c2s.students.segformer import load_encoder
from c2s_cache.errors import ConfigError


@pytest.fixture(scope="module")
def b0():
    torch.manual_seed(0)
    return create("segformer-b0", 24).eval()


def test_features_have_the_teachers_width_at_a_quarter(b0):
    assert b0.dim == 24
    assert b0(torch.randn(1, 3, 64, 96)).shape == (1, 24, 16, 24)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ConfigError, match=r"segformer-b7.*segformer-b0.*shapes-net"):
        create("segformer-b7", 8)
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("prefix", ["segformer.", ""])
def test_encoder_weights_come_from_safetensors(b0, tmp_path, prefix):
    state = {prefix + k: v + 1.0 for k, v in b0.backbone.state_dict().items()}
    save_file(state | {"classifier.weight": torch.zeros(1)}, tmp_path / "mit.safetensors")
    student = create("segformer-b0", 24, str(tmp_path / "mit.safetensors"))
    for name, value in student.backbone.state_dict().items():
        assert torch.equal(value, state[prefix + name])


def test_weights_of_another_size_are_refused_by_name(b0, tmp_path):
    save_file({"encoder.x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match=r"parameters differ, first .*expected .* got nothing"):
        load_encoder(b0.backbone, str(tmp_path / "other.safetensors"))


def test_a_pickle_is_never_opened(b0, tmp_path):
    torch.save({"a": 1}, tmp_path / "mit.pth")
    with pytest.raises(ConfigError, match=r"not a safetensors file"):
        load_encoder(b0.backbone, str(tmp_path / "mit.pth"))


def test_parameter_groups_partition_the_parameters(b0):
    model = nn.Module()
    model.student, model.method = b0, nn.TransformerDecoderLayer(24, 4)
    model.pos_embed = nn.Parameter(torch.zeros(1, 9, 24))
    groups = parameter_groups(model, lr=1.0, weight_decay=0.1, head_lr_mult=10)
    names = [name for group in groups for name in group["names"]]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    by_name = {n: (g["lr"], g["weight_decay"]) for g in groups for n in g["names"]}
    modules = dict(model.named_modules())
    for name, (lr, decay) in by_name.items():
        owner = modules[name.rpartition(".")[0]]
        assert lr == (1.0 if name.startswith("student.backbone.") else 10.0)
        plain = name.endswith(("bias", "pos_embed")) or isinstance(
            owner, (nn.LayerNorm, nn.BatchNorm2d)
        )
        assert decay == (0.0 if plain else 0.1), name


def test_costs_are_those_counted_for_table_3():
    cost = student_cost("segformer-b4")
    assert (round(cost.parameters / 1e6, 2), cost.gflops) == (61.5, 60.43)
    assert round(cost.training_parameters / 1e6, 1) == 65.7
    small = student_cost("shapes-net", 128, 64)
    assert small.parameters < 1e6
    assert small.gflops < 0.1
