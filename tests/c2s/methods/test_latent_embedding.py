"""Latent embeddings: what each generator sees, and that padding never leaks."""

from __future__ import annotations

import pytest
import torch

from c2s.methods.clip_to_seg.latent_embedding import (
    LatentEmbedding,
    _padding,
    latent_ids,
    tokens_of,
)

N, D = 4, 16


def inputs(seed=0):
    torch.manual_seed(seed)
    ids = torch.tensor([[N, N + 1, -1], [-1, N + 1, N + 2]])
    region_ids = torch.tensor([[0, N, N + 1, -1], [2, N + 2, -1, -1]])
    region_cls = torch.randn(2, 4, D) * (region_ids >= 0)[..., None]
    return ids, torch.randn(2, 3, D), torch.randn(2, D), region_cls, region_ids


def test_latent_ids_by_image():
    pseudo = torch.tensor([[[0, N], [N + 2, -1]], [[1, 1], [2, -1]]])
    assert latent_ids(pseudo, N).tolist() == [[N, -1, N + 2], [-1, -1, -1]]
    assert latent_ids(pseudo[1:], N).shape == (1, 0)


def test_tokens_are_those_of_the_same_id():
    ids, _, _, region_cls, region_ids = inputs()
    tokens, found = tokens_of(ids, region_ids, region_cls)
    assert found.tolist() == [[True, True, False], [False, False, True]]
    assert torch.equal(tokens[0, 1], region_cls[0, 2])
    assert torch.equal(tokens[1, 2], region_cls[1, 1])
    assert not tokens[~found].any()


def test_transformer_equals_the_layer_run_on_each_image_alone():
    ids, prototypes, global_cls, region_cls, region_ids = inputs()
    model = LatentEmbedding(D, heads=4).eval()
    out, valid = model(ids, prototypes, global_cls, region_cls, region_ids)
    assert torch.equal(valid, ids >= 0)
    for b in range(2):
        memory = torch.cat([global_cls[b, None], region_cls[b, region_ids[b] >= 0]])
        alone = model.decoder(prototypes[b, valid[b]][None], memory[None])[0]
        torch.testing.assert_close(out[b, valid[b]], alone)


@pytest.mark.parametrize(
    ("calibration", "global_matters", "local_matters"),
    [("both", True, True), ("global", True, False), ("local", False, True)],
)
def test_calibration_chooses_the_memory(calibration, global_matters, local_matters):
    ids, prototypes, global_cls, region_cls, region_ids = inputs()
    model = LatentEmbedding(D, calibration=calibration, heads=4).eval()
    base = model(ids, prototypes, global_cls, region_cls, region_ids)[0]
    other = model(ids, prototypes, global_cls + 1, region_cls, region_ids)[0]
    assert torch.equal(base, other) != global_matters
    other = model(ids, prototypes, global_cls, region_cls + 1.0 * (region_cls != 0), region_ids)[0]
    assert torch.equal(base, other) != local_matters


def test_prototype_and_cls_pass_through():
    ids, prototypes, global_cls, region_cls, region_ids = inputs()
    out, valid = LatentEmbedding(D, "prototype")(
        ids, prototypes, global_cls, region_cls, region_ids
    )
    assert torch.equal(out, prototypes * valid[..., None])
    out, valid = LatentEmbedding(D, "cls")(ids, prototypes, global_cls, region_cls, region_ids)
    assert valid.tolist() == [[True, True, False], [False, False, True]]
    assert torch.equal(out[0, 0], region_cls[0, 1])


@pytest.mark.parametrize(
    "generator", ["transformer", "prototype", "prototype-mlp", "cls", "cls-mlp"]
)
@pytest.mark.parametrize("calibration", ["both", "local"])
def test_images_without_latent_classes_or_tokens_keep_gradients_finite(generator, calibration):
    ids, prototypes, global_cls, region_cls, region_ids = inputs()
    ids[0], region_ids[1] = -1, -1
    prototypes.requires_grad_()
    model = LatentEmbedding(D, generator, calibration, heads=4)
    out, valid = model(ids, prototypes, global_cls, region_cls * 0, region_ids)
    (out.square().sum() + 0 * prototypes.sum()).backward()
    grads = [prototypes.grad, *(p.grad for p in model.parameters())]
    assert all(g.isfinite().all() for g in grads if g is not None)
    assert not out[~valid].any()


def test_no_row_ever_hides_all_of_its_keys():
    valid = torch.tensor([[True, False], [False, False]])
    assert _padding(valid).tolist() == [[False, True], [False, False]]


def test_no_latent_class_in_the_whole_batch():
    _, _, global_cls, region_cls, region_ids = inputs()
    none = torch.zeros(2, 0, dtype=torch.int64)
    out, valid = LatentEmbedding(D, heads=4)(
        none, torch.zeros(2, 0, D), global_cls, region_cls, region_ids
    )
    assert out.shape == (2, 0, D)
    assert valid.shape == (2, 0)


def test_the_layer_is_the_one_of_table_3():
    parameters = sum(p.numel() for p in LatentEmbedding(512).parameters())
    assert round(parameters / 1e6, 3) == 4.204
