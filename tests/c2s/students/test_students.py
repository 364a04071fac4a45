"""Students by name: width, resolution, sums of Table III, weights, parameter groups."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from c2s.methods.cost import student_cost
from c2s.students import NAMES, create
from c2s.students.base import initialise_convolutions, parameter_groups, to_multiple
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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["segnext-t", "vit-b", "setr-b", "segformer-b0", "shapes-net"])
def test_images_may_have_any_size_from_32_pixels_on(name):
    with torch.device("meta"):
        student = create(name, 24, "random").eval()
        whole = student(torch.empty(1, 3, 64, 96))
        assert student(torch.empty(2, 3, 33, 65)).shape[:2] == (2, 24)
        assert student(torch.empty(1, 3, 63, 95)).shape == whole.shape
        assert student(torch.empty(1, 3, 32, 32)).shape[2:] == (whole.shape[2] // 2,) * 2
        assert isinstance(student.get_submodule(student.classifier), nn.Conv2d)
        assert whole.shape[:2] == (1, 24)
        assert whole.shape[2] / 64 == whole.shape[3] / 96


def test_sides_are_rounded_up_without_a_shift():
    ramp = torch.arange(30.0).repeat(1, 3, 32, 1)
    wider = to_multiple(ramp, 16)
    assert wider.shape == (1, 3, 32, 32)
    centres = (torch.arange(32.0) + 0.5) * 30 / 32 - 0.5
    torch.testing.assert_close(wider[0, 0, 5], centres.clamp(0, 29))
    images = torch.rand(1, 3, 32, 48)
    assert torch.equal(to_multiple(images, 16), images)


def test_convolutions_start_as_he_et_al_and_the_classifier_small():
    torch.manual_seed(0)
    head = nn.Sequential(nn.Conv2d(64, 96, 3, groups=2), nn.Conv2d(64, 512, 1))
    initialise_convolutions(head, head[1])
    assert head[0].weight.std().item() == pytest.approx((2 / (9 * 96 / 2)) ** 0.5, rel=0.05)
    assert head[1].weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not head[0].bias.any()


def test_the_longest_name_that_a_parameter_begins_with_gives_its_rate():
    model = torch.nn.Module()
    model.student = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    rates = {"student.": 0.5, "student.1.": 0.1, "student.1.we": 3.0}
    groups = parameter_groups(model, 1.0, 0.1, 10, rates)
    found = {name: group["lr"] for group in groups for name in group["names"]}
    assert found == {
        **{"student.0.weight": 0.5, "student.0.bias": 0.5},
        **{"student.1.weight": 3.0, "student.1.bias": 0.1},
    }


def test_parameter_groups_partition_the_parameters(b0):
    model = nn.Module()
    model.student, model.method = b0, nn.TransformerDecoderLayer(24, 4)
    model.pos_embed = nn.Parameter(torch.zeros(1, 9, 24))
    model.cls_token = nn.Parameter(torch.zeros(1, 1, 24))
    groups = parameter_groups(model, lr=1.0, weight_decay=0.1, head_lr_mult=10)
    names = [name for group in groups for name in group["names"]]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    by_name = {n: (g["lr"], g["weight_decay"]) for g in groups for n in g["names"]}
    modules = dict(model.named_modules())
    for name, (lr, decay) in by_name.items():
        owner = modules[name.rpartition(".")[0]]
        assert lr == (1.0 if name.startswith("student.backbone.") else 10.0)
        plain = name.endswith(("bias", "pos_embed", "cls_token")) or isinstance(
            owner, (nn.LayerNorm, nn.BatchNorm2d)
        )
        assert decay == (0.0 if plain else 0.1), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "training", "gflops", "published"),
    [
        ("segnext-b", 32.03, 32.86, (32.0, 33.5)),
        ("setr-b", 90.97, 109.38, (91.0, 109.0)),
        ("vit-b", 91.03, 107.43, (91.0, 109.0)),
        ("segformer-b4", 65.71, 60.43, (65.7, 60.7)),
    ],
)
def test_costs_are_those_of_table_3(name, training, gflops, published):
    cost = student_cost(name)
    assert round(cost.training_parameters / 1e6, 2) == training
    assert round(cost.training_parameters / 1e6, 1) == published[0]
    assert cost.gflops == gflops
    assert cost.gflops == pytest.approx(published[1], rel=0.03)


@pytest.mark.slow
def test_the_factorisation_is_counted_apart_and_attention_is_not():
    steps, positions, channels, rank = 7, 64**2, 512, 64
    update = positions * channels * rank + (positions + channels) * rank**2
    macs = (2 * steps + 1) * update + 2 * positions * channels * rank
    assert student_cost("segnext-b").factorisation_gflops == round(macs / 1e9, 2)
    vit = student_cost("vit-b")
    tokens, width, depth = 1 + 32**2, 768, 12
    attention = depth * 2 * tokens**2 * width
    linear = depth * 12 * tokens * width**2 + 32**2 * width * (3 * 16**2 + 512)
    assert vit.gflops == round((attention + linear) / 1e9, 2)
    assert vit.factorisation_gflops == 0


@pytest.mark.slow
def test_costs_follow_width_and_size():
    small = student_cost("shapes-net", 128, 64)
    assert small.parameters < 1e6
    assert small.gflops < 0.1
    assert student_cost("segnext-t", 512, 256).gflops == pytest.approx(
        student_cost("segnext-t").gflops / 4, rel=0.01
    )
