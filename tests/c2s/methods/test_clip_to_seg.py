"""The whole objective: Table IV as configuration, class ids, and what an unseen class cannot do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from c2s.methods import Facts
from c2s.methods.clip_to_seg import (
    ClipToSegBatch,
    ClipToSegConfig,
    LossWeights,
    aggregate,
    cross_entropy_loss,
    info_nce,
    local_info_nce,
    region_means,
)
from c2s.methods.feature_map import FeatureMap
from c2s.vocabulary import Vocabulary

N, D, S = 7, 16, 8
SEEN = (0, 1, 2, 4, 5)


@pytest.fixture
def seen():
    torch.manual_seed(1)
    text = torch.nn.functional.normalize(torch.randn(len(SEEN), D), dim=-1)
    return Vocabulary(tuple(map(str, SEEN)), text.numpy(), ids=tuple(SEEN))


@pytest.fixture
def batch():
    torch.manual_seed(2)
    pseudo = torch.full((2, S, S), -1)
    pseudo[0, :3], pseudo[0, 3:5], pseudo[0, 5:] = 0, N, N + 2
    pseudo[1, :4], pseudo[1, 4:7] = 4, 5
    ids = torch.tensor([[0, N, N + 2], [4, 5, -1]])
    tokens = torch.randn(2, 3, D) * (ids >= 0)[..., None]
    image = torch.zeros(2, 3, S, S, dtype=torch.uint8)
    return ClipToSegBatch(
        image=image, pseudo=pseudo, global_cls=torch.randn(2, D), region_cls=tokens, region_ids=ids
    )


@pytest.mark.parametrize(
    ("switches", "names"),
    [
        (
            {"global_distillation": False, "local_distillation": False, "latent_embedding": False},
            set(),
        ),
        ({"global_distillation": False, "local_distillation": False}, set()),
        ({"latent_embedding": False}, {"global", "local"}),
        ({}, {"global", "local"}),
    ],
)
def test_the_rows_of_table_4_are_configurations(switches, names, seen, batch):
    method = ClipToSegConfig(**switches).build(Facts(seen, N))
    features = torch.randn(2, D, 4, 4, requires_grad=True)
    losses = method.losses(features, batch)
    assert set(losses) == names | {"loss", "pixel", "focal", "dice", "ce"}
    expected = sum(losses[n] for n in ("global", "local", "pixel") if n in losses)
    torch.testing.assert_close(losses["loss"], expected)
    torch.testing.assert_close(losses["pixel"], losses["focal"] + losses["dice"] + losses["ce"])
    losses["loss"].backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()
    has_layer = any(name.startswith("latent.") for name, _ in method.named_parameters())
    assert has_layer == switches.get("latent_embedding", True)


def test_weights_scale_the_terms(seen, batch):
    weights = LossWeights(
        global_distillation=2.0, local_distillation=0.5, pixel=3.0, focal=100.0, dice=1.0, ce=0.0
    )
    config = ClipToSegConfig(weights=weights, dropout=0.0)
    losses = config.build(Facts(seen, N)).losses(torch.randn(2, D, 4, 4), batch)
    torch.testing.assert_close(losses["pixel"], 100 * losses["focal"] + losses["dice"])
    total = 2 * losses["global"] + 0.5 * losses["local"] + 3 * losses["pixel"]
    torch.testing.assert_close(losses["loss"], total)


def test_without_latent_embeddings_only_annotated_pixels_of_seen_classes_count(seen, batch):
    config = ClipToSegConfig(
        latent_embedding=False, global_distillation=False, local_distillation=False, alpha=2.0
    )
    features = torch.randn(2, D, S, S)
    got = config.build(Facts(seen, N)).losses(features, batch)["ce"]
    costs = []
    for b in range(2):
        for y in range(S):
            for x in range(S):
                if batch.pseudo[b, y, x].item() in SEEN:
                    v = torch.nn.functional.normalize(features[b, :, y, x], dim=0)
                    logits = 2.0 * torch.from_numpy(seen.embeddings) @ v
                    costs.append(-logits.log_softmax(0)[SEEN.index(batch.pseudo[b, y, x].item())])
    torch.testing.assert_close(got, torch.stack(costs).mean())


def test_latent_pixels_are_classified_by_their_own_embedding(seen, batch):
    config = ClipToSegConfig(
        generator="prototype",
        global_distillation=False,
        local_distillation=False,
        alpha=2.0,
        beta=3.0,
    )
    features = torch.randn(2, D, S, S)
    got = config.build(Facts(seen, N)).losses(features, batch)["ce"]
    prototypes, _ = region_means(
        FeatureMap(features), batch.pseudo, torch.tensor([[N, N + 2], [-1, -1]])
    )
    costs = []
    for b in range(2):
        unit = torch.nn.functional.normalize(features[b].flatten(1), dim=0)
        rows = [2 * torch.from_numpy(seen.embeddings) @ unit]
        columns = dict(zip(SEEN, range(len(SEEN)), strict=True))
        if b == 0:
            rows.append(3 * torch.nn.functional.normalize(prototypes[0], dim=-1) @ unit)
            columns |= {N: len(SEEN), N + 2: len(SEEN) + 1}
        target = torch.tensor([columns.get(t, -1) for t in batch.pseudo[b].flatten().tolist()])
        logits = torch.cat(rows)[None, :, None]
        costs.append(cross_entropy_loss(logits, target.view(1, 1, -1)) * (target >= 0).sum())
    expected = torch.stack(costs).sum() / (batch.pseudo >= 0).sum()
    torch.testing.assert_close(got, expected)


def test_padding_another_image_with_latent_slots_changes_nothing(seen, batch):
    config = ClipToSegConfig(global_distillation=False, dropout=0.0)
    method, features = config.build(Facts(seen, N)), torch.randn(2, D, 4, 4)
    second = ClipToSegBatch(**{k: v[1:] for k, v in vars(batch).items() if v is not None})
    first = ClipToSegBatch(**{k: v[:1] for k, v in vars(batch).items() if v is not None})
    together = method.losses(features, batch)["dice"]  # a mean over 3 + 2 present masks
    alone = (
        method.losses(features[1:], second)["dice"] * 2
        + method.losses(features[:1], first)["dice"] * 3
    )
    torch.testing.assert_close(5 * together, alone)


def test_global_loss_uses_earlier_tokens_only(seen, batch):
    method = ClipToSegConfig(local_distillation=False, latent_embedding=False, bank_size=3).build(
        Facts(seen, N)
    )
    features = torch.randn(2, D, 4, 4)
    assert method.losses(features, batch)["global"].item() == pytest.approx(0, abs=1e-6)
    assert method.losses(features, batch)["global"].item() > 0
    method.eval()
    before = method.bank.filled().clone()
    method.losses(features, batch)
    assert torch.equal(before, method.bank.filled())


@pytest.mark.parametrize("how", ["attention", "mean", "max"])
@pytest.mark.parametrize("latent", [True, False])
def test_means_taken_together_are_those_of_the_single_losses(how, latent, seen, batch):
    config = ClipToSegConfig(aggregation=how, bank_size=0, latent_embedding=latent)
    features = torch.randn(2, D, 4, 4, requires_grad=True)
    losses = config.build(Facts(seen, N)).eval().losses(features, batch)
    image = aggregate(FeatureMap(features), batch.global_cls, how)
    rival = batch.global_cls.flip(0)[:, None]
    regions, pixels = region_means(FeatureMap(features), batch.pseudo, batch.region_ids)
    alone = {
        "global": info_nce(image, batch.global_cls, rival, config.tau),
        "local": local_info_nce(regions, batch.region_cls, pixels > 0, config.tau),
    }
    for name, want in alone.items():
        torch.testing.assert_close(losses[name], want)
        (got,) = torch.autograd.grad(losses[name], features, retain_graph=True)
        torch.testing.assert_close(got, torch.autograd.grad(want, features, retain_graph=True)[0])


@pytest.mark.parametrize(
    ("settings", "earlier"),
    [({"bank_size": 0}, 0), ({"bank_size": 3, "global_negatives": "both"}, 3)],
)
def test_the_other_images_of_the_batch_can_be_negatives(settings, earlier, seen, batch):
    method = ClipToSegConfig(local_distillation=False, latent_embedding=False, **settings).build(
        Facts(seen, N)
    )
    features = torch.randn(2, D, 4, 4)
    first, second = (method.losses(features, batch)["global"].item() for _ in range(2))
    tokens, query = batch.global_cls, aggregate(FeatureMap(features), batch.global_cls)
    rival = tokens.flip(0)[:, None]  # of two images, the other one
    assert first == pytest.approx(info_nce(query, tokens, rival, 0.07).item(), rel=1e-5)
    bank = tokens.expand(2, -1, -1)[:, -earlier:] if earlier else rival[:, :0]
    expected = info_nce(query, tokens, torch.cat([rival, bank], 1), 0.07).item()
    assert second == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["cosine", "l2", "residual"])
def test_the_distillations_of_table_6_draw_features_to_tokens(kind, seen, batch):
    torch.manual_seed(0)
    config = ClipToSegConfig(distillation=kind, latent_embedding=False, aggregation="mean")
    method = config.build(Facts(seen, N))
    features = torch.randn(2, D, S, S, requires_grad=True)
    losses = method.losses(features, batch)
    (losses["global"] + losses["local"]).backward()
    assert features.grad is not None
    moved = features.detach() - 5 * features.grad

    def distances(f):
        local, _ = region_means(FeatureMap(f), batch.pseudo, batch.region_ids)
        pairs = ((f.mean((2, 3)), batch.global_cls), (local[:, :2], batch.region_cls[:, :2]))
        if kind == "l2":
            return [(a - b).square().sum().item() for a, b in pairs]
        return [1 - torch.nn.functional.cosine_similarity(a, b, -1).mean().item() for a, b in pairs]

    for before, after in zip(distances(features.detach()), distances(moved), strict=True):
        assert after < before
    assert hasattr(method, "residual") == (kind == "residual")


def test_supervision_at_feature_resolution(seen, batch):
    coarse = ClipToSegConfig(supervision="features", latent_embedding=False).build(Facts(seen, N))
    fine = ClipToSegConfig(supervision="image", latent_embedding=False).build(Facts(seen, N))
    features = torch.randn(2, D, S, S)
    torch.testing.assert_close(
        coarse.losses(features, batch)["pixel"], fine.losses(features, batch)["pixel"]
    )
    assert coarse.losses(features[:, :, ::2, ::2], batch)["pixel"].isfinite()


def test_half_precision_features_are_computed_upon_in_float32(seen, batch):
    method = ClipToSegConfig().build(Facts(seen, N))
    losses = method.losses(torch.randn(2, D, 4, 4, dtype=torch.bfloat16), batch)
    assert all(v.dtype == torch.float32 for v in losses.values())


def test_nothing_of_the_unseen_classes_is_in_the_method(seen):
    method = ClipToSegConfig().build(Facts(seen, N))
    assert method.text.shape == (len(SEEN), D)
    assert sorted(method.channel[list(SEEN)].tolist()) == list(range(len(SEEN)))
    assert method.channel[[3, 6]].tolist() == [-1, -1]


def test_configuration_is_strict():
    with pytest.raises(ValidationError):
        ClipToSegConfig(tua=0.1)
    with pytest.raises(ValidationError):
        ClipToSegConfig(tau=0)
    with pytest.raises(ValidationError):
        LossWeights(pixels=1)


def test_heads_must_divide_the_width(seen):
    with pytest.raises(ValueError, match="heads=5"):
        ClipToSegConfig(heads=5).build(Facts(seen, N))


def test_what_the_loader_knows_of_ids_changes_nothing(seen, batch):
    """An exact bound and a loose one, which leaves empty latent slots, give what looking gives."""
    method, features = ClipToSegConfig(dropout=0.0).build(Facts(seen, N)), torch.randn(2, D, 4, 4)
    looked = method.eval().losses(features, batch)
    assert batch.largest_id() == N + 2
    for bound, close in ((N + 2, {"rtol": 0, "atol": 0}), (N + 9, {})):
        told = method.losses(features, replace(batch, max_id=bound))
        torch.testing.assert_close(told, looked, **close)


def test_a_bank_that_is_loaded_knows_its_number(seen, batch):
    one, two = ClipToSegConfig().build(Facts(seen, N)), ClipToSegConfig().build(Facts(seen, N))
    one.losses(torch.randn(2, D, 4, 4), batch)
    two.load_state_dict(one.state_dict())
    assert torch.equal(two.bank.filled(), one.bank.filled())
    assert len(two.bank.filled()) == 2
