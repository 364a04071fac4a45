"""Which layer is the classifier, what is refused, and what the model is given."""

from __future__ import annotations

import copy

import pytest
import torch
from plain_models import Convolutional, Tokens
from torch import Tensor, nn
from torch.nn import functional as F

from c2s.students import adapt
from c2s.students.adapters import InputSpec
from c2s_cache.errors import ConfigError

DIM = 6


class Ending(nn.Module):
    """A model that ends as `end` says; `first` and `second` are classifiers of 4 classes."""

    def __init__(self, end) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, 2, 1)
        self.first, self.second = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.end = end

    def forward(self, images: Tensor) -> object:
        return self.end(self, torch.relu(self.body(images)))


@pytest.mark.parametrize(
    ("end", "name"),
    [
        (lambda m, x: m.first(x), "first"),
        (lambda m, x: m.second(x + m.first(x).mean()), "second"),
        (
            lambda m, x: {"out": F.interpolate(m.first(x), scale_factor=2), "aux": m.second(x)},
            "first",
        ),
        (lambda m, x: F.interpolate(m.second(x), (9, 9), mode="bicubic").contiguous(), "second"),
        (lambda m, x: {"logits": m.first(x).flatten(2).unflatten(2, x.shape[2:])}, "first"),
    ],
)
def test_the_classifier_is_what_makes_the_output_whatever_its_name(end, name):
    student = adapt(Ending(end), DIM)
    assert student.classifier == f"model.{name}"
    assert student.model.get_submodule(name).out_channels == DIM
    assert student(torch.zeros(1, 3, 64, 64)).shape == (1, DIM, 32, 32)


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (lambda m, x: m.first(x).sigmoid(), r"an activation \(Sigmoid\) follows its last layer"),
        (lambda m, x: m.first(x).softmax(1), r"an activation \(Softmax\) follows"),
        (lambda m, x: m.first(x) + m.second(x), r"joins several layers \(Add\)"),
        (lambda m, x: torch.cat([m.first(x), m.second(x)], 1), r"joins several layers \(Cat\)"),
        (lambda m, x: m.first(x) * m.scale, r"its output comes from Mul"),
        (lambda m, x: m.first(x)[:, :3], r"its output comes from Slice"),
        (lambda m, x: m.first(x)[:, :, 1:], r"its output comes from Slice"),
        (lambda m, x: [m.first(x), m.second(x)], r"returns a list, not one map"),
        (lambda m, x: {"boxes": m.first(x)}, r"returns a dict, not one map"),
        (lambda m, x: m.first(x).mean((2, 3)), r"shape \[1, 4\], not \[B, C, h, w\]"),
        (lambda m, x: F.pixel_shuffle(m.first(x), 2), r"its output comes from PixelShuffle"),
        (lambda m, x: m.first(x).view(1, 16, x.shape[2] // 2, -1), r"first has 4 outputs for 16"),
        (lambda m, x: torch.zeros(1, 4, 8, 8), r"no layer with weights makes its output"),
        (lambda m, x: m.first(x.mean((2, 3), keepdim=True)), r"1 x 1 cells do not divide 64 x 128"),
        (lambda m, x: m.first(x + m.first(x).mean()), r"it applies its last layer 2 times"),
        (lambda m, x: m.first(F.pad(x, (1, 1, 0, 0))), r"32 x 66 cells do not divide 64 x 128"),
    ],
)
def test_what_cannot_be_adapted_is_refused_in_one_sentence(end, reason):
    with pytest.raises(ConfigError, match=rf"Ending cannot be adapted: .*{reason}") as caught:
        adapt(Ending(end), DIM)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (nn.ConvTranspose2d(8, 4, 2, 2), r"last layer last is a ConvTranspose2d"),
        (nn.Conv2d(8, 4, 1, groups=2), r"last layer last is a Conv2d of 2 groups"),
        (nn.BatchNorm2d(8), r"its output comes from NativeBatchNorm"),
        (nn.Sequential(nn.Conv2d(8, 4, 1), nn.ReLU()), r"an activation \(Relu\)"),
    ],
)
def test_a_last_layer_of_another_kind_is_refused(last, reason):
    model = Convolutional(4)
    model.last = last
    with pytest.raises(ConfigError, match=reason):
        adapt(model, DIM)


def test_masks_of_queries_are_refused():
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    swin = SwinConfig(embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1])
    swin.out_features = ["stage1", "stage2", "stage3", "stage4"]
    config = Mask2FormerConfig(
        backbone_config=swin,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        dim_feedforward=32,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
    )
    with pytest.raises(ConfigError, match=r"Mask2Former.* predicts masks of queries"):
        adapt(Mask2FormerForUniversalSegmentation(config), DIM)


def test_a_model_that_fails_is_one_sentence():
    with pytest.raises(ConfigError, match=r"Linear does not run on images of 64 x 96: "):
        adapt(nn.Linear(3, 4), DIM)
    with pytest.raises(ConfigError, match=r"mine does not run on images of 33 x 97: .*square"):
        adapt(Ending(_only_the_first_size), DIM, name="mine")


def _only_the_first_size(model: Ending, x: Tensor) -> Tensor:
    if x.shape[2:] != (32, 48):
        raise ValueError("square\nand more lines")
    return model.first(x)


@pytest.mark.parametrize("make", [Convolutional, Tokens])
def test_features_are_the_models_own_output_before_it_is_resized(make):
    torch.manual_seed(0)
    model = make(DIM).eval()
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = model(images)
        student = adapt(copy.deepcopy(model), DIM).eval()
        features = student(images)
    if make is Convolutional:
        features = F.interpolate(features, (64, 96), mode="bilinear", align_corners=True)
    assert torch.equal(features, expected)


def test_adapting_leaves_frozen_parts_and_norms_as_they_are():
    model = Convolutional(4)
    model.body[1].eval()
    model.body[0].weight.requires_grad_(False)
    before = {k: v.clone() for k, v in model.body.state_dict().items()}
    student = adapt(model, DIM)
    assert not model.body[1].training
    assert model.body[2].training
    assert not model.body[0].weight.requires_grad
    assert all(torch.equal(v, before[k]) for k, v in student.model.body.state_dict().items())
    assert student.model.last.weight.requires_grad


def test_a_widened_classifier_is_otherwise_as_it_was():
    model = Convolutional(4)
    model.last = nn.Conv2d(8, 4, 3, padding=2, dilation=2, bias=False, padding_mode="reflect")
    last = adapt(model, DIM).model.last
    assert last.weight.shape == (DIM, 8, 3, 3)
    assert (last.padding, last.dilation, last.bias, last.padding_mode) == (
        (2, 2),
        (2, 2),
        None,
        "reflect",
    )
    kept = Convolutional(DIM)
    weight = kept.last.weight
    assert adapt(kept, DIM).model.last.weight is weight


def test_images_come_as_the_model_wants_them():
    seen = []
    model = Convolutional(4)
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    student = adapt(model, DIM, input=InputSpec(multiple=20, bgr=True))
    image = torch.arange(3.0)[None, :, None, None].expand(1, 3, 33, 60)
    student(image)
    assert seen[-1].shape == (1, 3, 40, 60)
    assert seen[-1][0, :, 0, 0].tolist() == [2, 1, 0]
    student = adapt(Convolutional(4), DIM, input=InputSpec(side=48))
    assert student(image).shape == (1, DIM, 12, 12)


def test_the_backbone_is_all_but_the_classifier_unless_it_is_named():
    model = Convolutional(4)
    assert {id(p) for p in adapt(model, DIM).backbone.parameters()} == {
        id(p) for n, p in model.named_parameters() if not n.startswith("last.")
    }
    model = Convolutional(4)
    student = adapt(model, DIM, backbone=model.body)
    assert student.backbone is model.body
    twin = copy.deepcopy(student)
    assert twin.backbone is twin.model.body
    assert not [k for k in student.state_dict() if k.startswith("backbone")]
