"""What every student promises, whichever library its architecture comes from.

A new name is one line in `STUDENTS`.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import ConvNextConfig, DPTConfig, MobileViTConfig, UperNetConfig

from c2s.methods.cost import student_cost
from c2s.students import create
from c2s.students.base import FeatureStudent
from c2s.testing import StudentContract

DIM = 24
STUDENTS = (
    "segformer-b0",
    "segnext-t",
    "setr-b",
    "vit-b",
    "shapes-net",
    "smp:unet/resnet18",
    "smp:fpn/tu-test_convnext",
    "hf:upernet",
    "hf:dpt",
    "hf:mobilevit",
    "torchvision:deeplabv3_mobilenet_v3_large",
    "torchvision:lraspp_mobilenet_v3_large",
    "timm:test_convnext",
    "timm:test_vit",
    "python:plain_models:convolutional",
    "python:plain_models:tokens",
    "python:plain_models:of_any_classes",
)
IDLE = {
    "hf:dpt": r"model\.dpt\.layernorm|fusion_stage\.layers\.0\.residual_layer1",
    "python:plain_models:convolutional": r"model\.early",
    "python:plain_models:of_any_classes": r"model\.early",
}
"""Parameters that no feature depends on: a last norm that is not read, an auxiliary head."""
ODD = ((33, 47), (65, 64), (97, 61))
CONFIGS = {
    "upernet": lambda: UperNetConfig(
        backbone_config=ConvNextConfig(
            hidden_sizes=[8, 16, 24, 32],
            depths=[1, 1, 1, 1],
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        hidden_size=16,
    ),
    "dpt": lambda: DPTConfig(
        hidden_size=24,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=64,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 16, 24, 32],
        fusion_hidden_size=16,
        is_hybrid=False,
    ),
    "mobilevit": lambda: MobileViTConfig(
        hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 8, 16, 16, 24, 32, 32],
        aspp_out_channels=16,
    ),
}
"""Small architectures of transformers; their names above stand for folders."""


LARGE = ("segnext-t", "setr-b", "vit-b", "hf:dpt", "torchvision:deeplabv3_mobilenet_v3_large")
"""What takes seconds to make, and is left to the slow tests."""


@pytest.fixture(
    scope="module",
    params=[pytest.param(s, marks=pytest.mark.slow) if s in LARGE else s for s in STUDENTS],
)
def case(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def name(case: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What `create` calls the student."""
    library, _, model = case.partition(":")
    if library != "hf":
        return case
    folder = tmp_path_factory.mktemp(model)
    CONFIGS[model]().save_pretrained(folder)
    return f"hf:{folder}"


@pytest.fixture(scope="module")
def idle(case: str) -> str:
    """Pattern of the parameters that cannot learn."""
    return IDLE.get(case, "(?!)")


@pytest.fixture(scope="module")
def student(name: str) -> FeatureStudent:
    torch.manual_seed(0)
    return create(name, DIM, "random").eval()


def images(*size: int) -> torch.Tensor:
    return torch.randn(size[0], 3, *size[1:], generator=torch.Generator().manual_seed(1))


@pytest.mark.slow
class TestContract(StudentContract):
    dim = DIM

    @pytest.fixture(autouse=True)
    def _one(self, name: str, idle: str) -> None:
        self.one, self.idle = name, idle

    def name(self) -> str:
        return self.one


@torch.no_grad()
def test_it_tells_which_of_any_classes_a_place_is(student: FeatureStudent) -> None:
    text = torch.nn.functional.normalize(torch.randn(5, DIM), dim=1)
    x = images(2, 64, 96)
    features, scores = student(x), student.classify(x, text)
    assert scores.dtype == torch.float32
    assert scores.shape == (2, 5, *features.shape[2:])
    for k, y, x_ in ((0, 0, 0), (4, features.shape[2] - 1, features.shape[3] - 1)):
        want = torch.cosine_similarity(features[1, :, y, x_], text[k], 0)
        assert float(scores[1, k, y, x_]) == pytest.approx(float(want), abs=1e-5)
    assert student.classify(x, text[:0]).shape == (2, 0, *features.shape[2:])


@torch.no_grad()
def test_class_embeddings_fold_into_the_classifier(student: FeatureStudent) -> None:
    """A F + a comes out where A W + a takes the place of the last layer W."""
    x, layer = images(1, 65, 64), student.get_submodule(student.classifier)
    classes, shift = torch.randn(5, DIM), torch.arange(5.0)
    expected = torch.einsum("kd,bdhw->bkhw", classes, student(x)) + shift[:, None, None]
    folded = copy.deepcopy(student)
    last = copy.deepcopy(layer)
    last.weight = nn.Parameter(torch.einsum("kd,d...->k...", classes, layer.weight))
    last.bias = nn.Parameter(classes @ layer.bias + shift)
    folded.set_submodule(student.classifier, last)
    torch.testing.assert_close(folded(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_torch_export_gives_the_same_features(student: FeatureStudent) -> None:
    x = images(1, 65, 64)
    program = torch.export.export(student, (x,)).module()
    torch.testing.assert_close(program(x), student(x))


def test_its_cost_is_counted(student: FeatureStudent, name: str) -> None:
    cost = student_cost(name, DIM, 128)
    assert cost.parameters == sum(p.numel() for p in student.parameters())
    with FlopCounterMode(display=False) as counter:
        student(images(1, 128, 128))
    counted = counter.get_total_flops() / 2e9
    assert cost.gflops + cost.factorisation_gflops == pytest.approx(counted, abs=0.01)
