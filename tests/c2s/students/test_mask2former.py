"""Mask2Former from transformers' two decoders: parity with its model, sizes, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import Mask2FormerConfig, Mask2FormerModel, TimmBackboneConfig

from c2s.methods.cost import student_cost
from c2s.students import create
from c2s.students.base import parameter_groups
from c2s.students.query import Queries, QueryStudent
from c2s.testing import StudentContract
from c2s_cache.errors import ConfigError

DIM = 24


@pytest.fixture(scope="module")
def student() -> QueryStudent:
    torch.manual_seed(0)
    return create("mask2former:resnet18", DIM).eval()


def reference(student):
    """transformers' own model with the student's weights."""
    backbone = TimmBackboneConfig(
        backbone="resnet18",
        out_indices=[1, 2, 3, 4],
        use_pretrained_backbone=False,
        freeze_batch_norm_2d=False,
    )
    model = Mask2FormerModel(Mask2FormerConfig(backbone_config=backbone)).eval()
    theirs = model.pixel_level_module.encoder._backbone
    theirs.load_state_dict(student.backbone.encoder.state_dict())
    model.pixel_level_module.decoder.load_state_dict(student.pixel_decoder.state_dict())
    model.transformer_module.load_state_dict(student.transformer.state_dict())
    return model


@pytest.mark.slow
@torch.no_grad()
def test_masks_and_states_are_those_of_transformers_model(student):
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    found = reference(student)(images, output_hidden_states=True)
    masks, states = student.decode(images)
    assert len(masks) == len(states) == len(found.masks_queries_logits) == student.sets == 10
    for ours, theirs in zip(masks, found.masks_queries_logits, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    theirs = found.transformer_decoder_intermediate_states
    for ours, state in zip(states, theirs, strict=True):
        torch.testing.assert_close(ours, state.transpose(0, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "dim", "millions"), [("resnet50", 512, 44.20), ("resnet101", 1024, 63.32)]
)
def test_it_has_the_parameters_that_were_counted(backbone, dim, millions):
    """At inference: of the projections to the text the last one alone."""
    with torch.device("meta"):
        student = create(f"mask2former:{backbone}", dim, "random")
    early = student.projections[:-1].parameters()
    count = sum(p.numel() for p in student.parameters()) - sum(p.numel() for p in early)
    assert count / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.slow
@torch.no_grad()
def test_a_place_gets_the_classes_of_its_queries(student):
    """Sum over the queries of class probability times mask, by loops; for one class, and for 847."""
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    found = student(images)
    nothing = torch.nn.functional.normalize(student.nothing, dim=0)
    for count in (1, 847):
        text = torch.nn.functional.normalize(torch.randn(count, DIM), dim=1)
        scores = student.classify(images, text)
        assert scores.shape == (1, count, 16, 16)
        for k, y, x in ((0, 0, 0), (count - 1, 7, 9)):
            want = 0.0
            for q in range(found.masks[-1].shape[1]):
                v = torch.nn.functional.normalize(found.embeddings[-1][0, q], dim=0)
                logits = torch.stack([*(text @ v), nothing @ v]) / 0.07
                want += float(logits.softmax(0)[k] * found.masks[-1][0, q, y, x].sigmoid())
            assert float(scores[0, k, y, x]) == pytest.approx(want, rel=1e-4)


def test_a_query_has_its_embeddings_by_the_letter(student):
    state = torch.randn(1, 3, student.width)
    mask = torch.zeros(1, 3, 2, 2)
    copied = copy.copy(student)
    copied.decode = lambda images, frames: ((mask,) * 10, (state,) * 10)
    found: Queries = copied(torch.zeros(1, 3, 64, 64))
    u = state @ student.shared.weight.T + student.shared.bias
    torch.testing.assert_close(found.shared[4], u)
    v = u.clamp(min=0) @ student.projections[4].weight.T + student.projections[4].bias
    torch.testing.assert_close(found.embeddings[4], v)


def test_queries_levels_and_norms_do_not_decay(student):
    groups = parameter_groups(student, lr=1.0, weight_decay=0.05, head_lr_mult=10)
    free = {name for g in groups if g["weight_decay"] == 0 for name in g["names"]}
    assert {
        *("transformer.queries_embedder.weight", "transformer.queries_features.weight"),
        *("transformer.level_embed.weight", "pixel_decoder.level_embed", "nothing", "scale"),
    } <= free
    assert "transformer.decoder.layers.0.fc1.weight" not in free
    slow = {name for g in groups if g["lr"] == 1.0 for name in g["names"]}
    assert slow == {n for n, _ in student.named_parameters() if n.startswith("backbone.")}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mask2former:vit_tiny_patch16_224", r"gives maps of the strides 16.*takes 4, 8, 16, 32"),
        ("mask2former:resnet51", r"timm has no encoder 'resnet51'"),
        ("mask2former:", r"There is no student 'mask2former:'"),
    ],
)
def test_encoders_without_a_pyramid_are_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        create(name, DIM)


def test_the_small_one_starts_from_the_shipped_encoder():
    small, random = (create("mask2former:shapes", DIM, w) for w in (None, "random"))
    net = create("shapes-net", DIM)
    for (name, ours), theirs in zip(
        small.backbone.named_parameters(), net.backbone.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    assert not torch.equal(next(random.backbone.parameters()), next(small.backbone.parameters()))
    found = small.eval()(torch.zeros(1, 3, 64, 64))
    assert [tuple(m.shape) for m in found.masks] == [(1, 16, 32, 32)] * 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sets", "width"),
    [
        ("mask2former:shapes", 4, 64),
        pytest.param("mask2former:resnet18", 10, 256, marks=pytest.mark.slow),
    ],
)
def test_its_cost_is_counted_with_its_methods(name, sets, width):
    """The method adds a projection to distil for each set, and the scale of texts."""
    student, cost = create(name, DIM, "random"), student_cost(name, DIM, 64)
    assert cost.parameters == sum(p.numel() for p in student.parameters())
    assert cost.training_parameters - cost.parameters == sets * (width * DIM + DIM) + 1
    assert cost.gflops > 0


@pytest.mark.slow
class TestContract(StudentContract):
    dim = DIM

    @pytest.fixture(autouse=True, params=["mask2former:shapes", "mask2former:test_convnext"])
    def _one(self, request):
        self.one = request.param
        last = {"mask2former:shapes": 3}.get(self.one, 9)
        self.idle = rf"^projections\.(?!{last}\.)"

    def name(self):
        return self.one
