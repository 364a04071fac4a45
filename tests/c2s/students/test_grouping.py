"""ZeroSeg's student against transformers' ViT-MAE and GroupViT, and against a grouping block in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from safetensors.torch import save_file
from torch import nn
from transformers import GroupViTVisionConfig, ViTMAEConfig, ViTMAEModel
from transformers.models.groupvit.modeling_groupvit import (
    GroupViTVisionEncoder,
    get_grouping_from_attentions,
)

from c2s.students import create
from c2s.students.grouping import GroupingSettings
from c2s.students.grouping_head import Assignment, GroupingHead, shares
from c2s.students.mae_grouping import EPS, MAEGroupingStudent, square_positions
from c2s_cache import ConfigError

W, D = 16, 24
PRINTED = GroupingSettings()


def head_config(**changes):
    sizes = {
        "hidden_size": W,
        "intermediate_size": 4 * W,
        "num_attention_heads": 4,
        "num_hidden_layers": 5,
        "depths": (2, 2, 1),
        "num_group_tokens": (6, 4, 0),
        "num_output_groups": (6, 4, 4),
    }
    return GroupViTVisionConfig(**(sizes | changes))


@pytest.fixture(scope="module")
def student():
    torch.manual_seed(0)
    return create("zeroseg-shapes", D, "random").eval()


def images(batch=2, height=64, width=64):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_the_head_is_transformers_own():
    torch.manual_seed(0)
    config = head_config()
    theirs, ours = GroupViTVisionEncoder(config).eval(), GroupingHead(config, PRINTED).eval()
    for parameter in theirs.parameters():
        parameter.normal_(0, 0.3)
    ours.load_state_dict(theirs.state_dict())
    patches = torch.randn(2, 12, W)
    tokens, maps = ours(patches)
    want = theirs(patches, output_attentions=True, output_hidden_states=False, return_dict=True)
    torch.testing.assert_close(tokens, want.last_hidden_state)
    assert maps.shape == (2, 4, 12)
    torch.testing.assert_close(
        functional.interpolate(maps.unflatten(2, (3, 4)), (9, 12), mode="bilinear"),
        get_grouping_from_attentions(want.attentions, (9, 12)),
    )
    torch.testing.assert_close(maps.sum(1), torch.ones(2, 12))


def test_groups_do_not_start_equal():
    torch.manual_seed(0)
    first = GroupingHead(head_config(), PRINTED).stages[0].group_token[0]
    assert (first.std(0) > 0.005).all()


def test_linear_layers_are_drawn_as_mae_draws_them():
    student = create("zeroseg-shapes", 16)
    layers = [m for m in student.modules() if isinstance(m, nn.Linear)]
    assert len(layers) > 20
    for layer in layers:
        assert layer.bias is None or (layer.bias == 0).all()
        if min(layer.weight.shape) >= 64:
            want = (2 / sum(layer.weight.shape)) ** 0.5
            assert layer.weight.std().item() == pytest.approx(want, rel=0.05)


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@torch.no_grad()
def test_assignment_as_in_numpy(hard, similarity):
    torch.manual_seed(0)
    how = GroupingSettings(hard=hard, similarity=similarity)
    module = Assignment(head_config(), how).eval()
    groups, patches = torch.randn(2, 3, W), torch.randn(2, 7, W)
    got, soft = module(groups, patches)

    def linear(layer, x):
        return x.numpy() @ layer.weight.numpy().T + layer.bias.numpy()

    for b in range(2):
        q, k, v = (
            linear(getattr(module, f"{n}_proj"), x[b])
            for n, x in (("q", groups), ("k", patches), ("v", patches))
        )
        logits = np.zeros((3, 7))
        for i in range(3):
            for j in range(7):
                dot = q[i] @ k[j]
                lengths = np.linalg.norm(q[i]) * np.linalg.norm(k[j])
                logits[i, j] = dot / np.sqrt(W) if similarity == "dot" else 10 * dot / lengths
        want = np.exp(logits) / np.exp(logits).sum(0)
        np.testing.assert_allclose(soft[b].numpy(), want, atol=1e-5)
        given = (want == want.max(0)).astype(float) if hard else want
        means = given @ v / (given.sum(1, keepdims=True) + 1)
        want_out = means @ module.proj.weight.numpy().T + module.proj.bias.numpy()
        np.testing.assert_allclose(got[b].numpy(), want_out, atol=1e-5)


def test_a_hard_choice_is_noisy_in_training_alone_and_has_the_gradient_of_the_shares():
    torch.manual_seed(0)
    module = Assignment(head_config(), PRINTED)
    groups, patches = torch.randn(1, 4, W), torch.randn(1, 40, W, requires_grad=True)
    first, second = module(groups, patches)[0], module(groups, patches)[0]
    assert not torch.equal(first, second)
    first.sum().backward()
    assert module.q_proj.weight.grad.abs().sum() > 0
    module.eval()
    assert torch.equal(module(groups, patches)[0], module(groups, patches)[0])


def test_balanced_segments_have_equal_shares():
    logits = 3 * torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(0))
    logits[:, 0] += 20  # one that would take all
    assert shares(logits)[:, 0].mean() > 0.99
    balanced = shares(logits, 20)
    torch.testing.assert_close(balanced.sum(1), torch.ones(2, 32))
    torch.testing.assert_close(balanced.sum(2), torch.full((2, 4), 8.0), atol=0.3, rtol=0)


def test_without_its_residual_a_segment_is_what_is_assigned_to_it():
    torch.manual_seed(0)
    config = head_config(depths=(1, 1), num_group_tokens=(4, 0), num_output_groups=(4, 4))
    block = GroupingHead(config, GroupingSettings(residual=False)).stages[0].downsample.eval()
    for part in (block.assign.v_proj, block.assign.proj, block.mlp_channels.fc2):
        torch.nn.init.zeros_(part.weight)
        torch.nn.init.zeros_(part.bias)
    found, _ = block(torch.randn(1, 9, W), torch.randn(1, 4, W))
    assert not found.any()


@torch.no_grad()
def test_the_encoder_is_transformers_own(student):
    theirs = ViTMAEModel(
        ViTMAEConfig(
            **{"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4},
            **{"intermediate_size": 512, "image_size": 64, "patch_size": 8},
            **{"layer_norm_eps": EPS, "mask_ratio": 0.5},
        )
    ).eval()
    missing = theirs.load_state_dict(student.backbone.state_dict(), strict=False)
    assert missing.missing_keys == ["embeddings.position_embeddings"]
    noise = torch.rand(2, 64, generator=torch.Generator().manual_seed(2))
    want, got = theirs(images(), noise=noise), student(images(), 0.5, noise)
    torch.testing.assert_close(got.patches, want.last_hidden_state)
    assert torch.equal(got.restore, want.ids_restore)
    hidden = torch.ones(2, 64).scatter(1, got.kept, 0)
    assert torch.equal(hidden, want.mask)
    theirs.config.mask_ratio = 0.0
    whole = theirs(images(), noise=torch.arange(64.0).expand(2, -1))
    torch.testing.assert_close(student(images()).patches, whole.last_hidden_state)


@torch.no_grad()
def test_seen_whole_patches_come_in_their_order(student):
    found = student(images())
    assert torch.equal(found.kept, torch.arange(64).expand(2, -1))
    shuffled = student(images(), 0.0, torch.rand(2, 64, generator=torch.Generator().manual_seed(0)))
    assert not torch.allclose(found.maps, shuffled.maps, atol=1e-6)
    in_order = shuffled.maps.gather(2, shuffled.restore[:, None].expand_as(shuffled.maps))
    torch.testing.assert_close(found.maps, in_order, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(found.segments, shuffled.segments, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_images_of_another_size_have_positions_resampled_as_transformers_does(student):
    embeddings = student.backbone.embeddings
    want = embeddings.interpolate_pos_encoding(torch.zeros(1, 1 + 12 * 6, 128), 96, 48)
    got = square_positions(embeddings.position_embeddings, 12, 6)
    torch.testing.assert_close(got, want)
    assert student.cut(images(1, 90, 47))[1].shape == (1, 8, 12, 6)


@torch.no_grad()
def test_a_pixel_has_the_probabilities_of_its_segments(student):
    text = functional.normalize(torch.randn(5, D), dim=1)
    segments, maps = student.cut(images())
    named = (100 * functional.normalize(segments, dim=2) @ text.T).softmax(2)
    soft = student.classify(images(), text)
    torch.testing.assert_close(
        soft[1, :, 3, 4], sum(maps[1, i, 3, 4] * named[1, i] for i in range(8))
    )
    torch.testing.assert_close(soft.sum(1), torch.ones(2, 8, 8))
    hard = create("zeroseg-shapes", D, "random", {"readout": "hard", "scale": 7.0}).eval()
    hard.load_state_dict(student.state_dict())
    named = (7 * functional.normalize(segments, dim=2) @ text.T).softmax(2)
    found = hard.classify(images(), text)
    fine = functional.interpolate(maps, scale_factor=2, mode="bilinear")
    assert found.shape == (2, 5, 16, 16)
    for b, y, x in ((0, 0, 0), (1, 9, 3), (1, 15, 15)):
        torch.testing.assert_close(found[b, :, y, x], named[b, fine[b, :, y, x].argmax()])


@pytest.mark.slow
def test_what_is_not_said_is_the_sizes_own():
    shapes, base = (create(n, D) for n in ("zeroseg-shapes", "zeroseg-b"))
    assert (shapes.how.hard, shapes.how.readout) == (False, "soft")
    assert base.how == PRINTED
    assert create("zeroseg-shapes", D, None, {"hard": True}).how.similarity == "cosine"


def test_parameters_of_the_published_size():
    """By hand: encoder 85.65 M, and the head at its width 63.88 M with norm and projection (D = 768)."""
    with torch.device("meta"):
        student = MAEGroupingStudent("zeroseg-b", 768)
    counts = {
        name: sum(p.numel() for p in part.parameters()) / 1e6
        for name, part in student.named_children()
    }
    assert counts["backbone"] == pytest.approx(85.65, abs=0.01)
    rest = counts["head"] + counts["norm"] + counts["project"]
    assert rest == pytest.approx(64.47, abs=0.6)


@pytest.mark.parametrize(("width", "head", "whole"), [(512, 28.82, 114.86), (384, 16.31, 102.25)])
def test_parameters_of_a_narrower_head(width, head, whole):
    """By hand, in millions (D = 768): the head with norm and projection; all, with the layer before it."""
    with torch.device("meta"):
        student = MAEGroupingStudent("zeroseg-b", 768, architecture={"width": width})
    parts = (student.head, student.norm, student.project)
    count = sum(p.numel() for part in parts for p in part.parameters()) / 1e6
    assert count == pytest.approx(head, abs=0.005)
    assert sum(p.numel() for p in student.parameters()) / 1e6 == pytest.approx(whole, abs=0.005)
    assert student.to_head.weight.shape == (width, 768)
    for layer in student.head.stages[0].layers:
        assert layer.self_attn.num_heads == width // 64


@torch.no_grad()
def test_a_head_of_another_width_groups_what_lies_between():
    torch.manual_seed(0)
    student = MAEGroupingStudent("zeroseg-shapes", D, architecture={"width": 64}).eval()
    found = student(images())
    assert found.tokens.shape == (2, 8, 64)
    assert found.patches.shape == (2, 65, 128)
    tokens, maps = student.head(student.to_head(found.patches[:, 1:]))
    torch.testing.assert_close((tokens, maps), (found.tokens, found.maps))
    own = MAEGroupingStudent("zeroseg-shapes", D, architecture={"width": 128})
    assert set(own.state_dict()) == set(create("zeroseg-shapes", D).state_dict())


def test_a_mask_ratio_that_hides_every_patch_is_refused(student):
    assert student(images(height=16, width=24), 0.8).patches.shape[1] == 1 + 1  # of 6
    with pytest.raises(ConfigError, match=r"0\.8 hides every one of the 4 patches of 8 pixels of"):
        student(images(height=16, width=16), 0.8)


def test_attention_heads_divide_the_width():
    with pytest.raises(ConfigError, match=r"width=500 is no multiple of 64, .* head of zeroseg-b"):
        MAEGroupingStudent("zeroseg-b", D, architecture={"width": 500})


@torch.no_grad()
def test_weights_of_maes_own_and_of_the_hub_are_read(student, tmp_path):
    own = student.backbone.state_dict()
    hub, mae = {}, {}
    for name, value in own.items():
        parts = name.split(".")
        if parts[0] != "layers":
            hub[f"vit.{name}"] = value
            mae[
                name.replace("embeddings.patch_embeddings.projection", "patch_embed.proj")
                .replace("embeddings.", "")
                .replace("layernorm", "norm")
            ] = value
            continue
        layer, rest = parts[1], ".".join(parts[2:])
        old = (
            rest.replace("attention.o_proj", "attention.output.dense")
            .replace("mlp.fc1", "intermediate.dense")
            .replace("mlp.fc2", "output.dense")
        )
        for short, long in (("q", "query"), ("k", "key"), ("v", "value")):
            old = old.replace(f"attention.{short}_proj", f"attention.attention.{long}")
        hub[f"vit.encoder.layer.{layer}.{old}"] = value
        if "q_proj" in rest:
            three = [own[name.replace("q_proj", f"{n}_proj")] for n in "qkv"]
            kind = rest.split(".")[-1]
            mae[f"blocks.{layer}.attn.qkv.{kind}"] = torch.cat(three)
        elif "k_proj" not in rest and "v_proj" not in rest:
            new = (
                rest.replace("attention.o_proj", "attn.proj")
                .replace("layernorm_before", "norm1")
                .replace("layernorm_after", "norm2")
            )
            mae[f"blocks.{layer}.{new}"] = value
    for number, state in enumerate((hub, mae)):
        file = tmp_path / f"{number}.safetensors"
        save_file({k: v.contiguous() for k, v in state.items()}, file)
        read = create("zeroseg-shapes", D, str(file)).eval()
        assert torch.equal(read(images()).patches, student(images()).patches)
