"""Self-training: who may label a pixel, and with what."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as functional

from c2s.methods import Batch, KnownClasses
from c2s.methods.clip_to_seg import ClipToSegConfig, SelfTraining

N, D, SIZE = 5, 8, 12
SEEN, UNSEEN = [0, 2, 3], [1, 4]


def known(ids):
    generator = torch.Generator().manual_seed(0)
    table = functional.normalize(torch.randn(N, D, generator=generator), dim=1)
    return KnownClasses(torch.tensor(ids), table[ids], N)


def method(**settings):
    config = ClipToSegConfig(**({"supervision": "features", "heads": 2} | settings))
    return config.build(known(SEEN), known(UNSEEN)).eval()


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    choices = torch.tensor([-1, *SEEN, N, N + 1])
    pseudo = choices[torch.randint(len(choices), (2, SIZE, SIZE), generator=generator)]
    ids = torch.tensor([[0, 3, N, N + 1], [2, N, -1, -1]])
    return Batch(
        image=torch.zeros(2, 3, SIZE, SIZE, dtype=torch.uint8),
        pseudo=pseudo,
        global_cls=torch.randn(2, D, generator=generator),
        region_cls=torch.randn(2, 4, D, generator=generator) * (ids >= 0)[..., None],
        region_ids=ids,
        region_area=torch.full((2, 4), 0.1),
        rows=torch.arange(2),
    )


def features(seed=1):
    return torch.randn(2, D, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def test_latent_pixels_take_the_best_unseen_class_and_no_other_pixel_changes():
    objective, given, f = method(), batch(), features()
    got = objective.labelled(f, given.pseudo)
    text = {c: known([c]).embeddings[0] for c in UNSEEN}
    for b in range(2):
        for y in range(SIZE):
            for x in range(SIZE):
                before = int(given.pseudo[b, y, x])
                want = before
                if before >= N:
                    pixel = f[b, :, y, x]
                    want = max(UNSEEN, key=lambda c: float(pixel @ text[c]))
                assert int(got[b, y, x]) == want


def test_a_pixel_that_looks_like_a_seen_class_still_gets_an_unseen_one():
    objective = method()
    given = batch()
    f = known([0]).embeddings[0].view(1, D, 1, 1).expand(2, D, SIZE, SIZE)
    got = objective.labelled(f, given.pseudo)
    assert set(got[given.pseudo >= N].tolist()) <= set(UNSEEN)


def test_confidence_leaves_doubtful_pixels_unlabelled():
    given, f = batch(), features()
    latent = given.pseudo >= N
    config = ClipToSegConfig()
    text = torch.cat([known(SEEN).embeddings, known(UNSEEN).embeddings])
    scores = torch.einsum("bdhw,nd->bnhw", functional.normalize(f, dim=1), text)
    best = (config.alpha * scores).softmax(1)[:, len(SEEN) :].amax(1)
    got = method(confidence=0.5).labelled(f, given.pseudo)
    assert torch.equal(got[latent] >= 0, best[latent] >= 0.5)
    assert torch.equal(got[~latent], given.pseudo[~latent])


def test_the_pixel_loss_is_the_supervised_one_on_the_new_labels():
    """With labels instead of latents, an inductive method that knows every class agrees."""
    objective, given, f = method(), batch(), features().requires_grad_()
    losses = objective(f, given)
    everything = ClipToSegConfig(supervision="features", latent=False).build(known(range(N))).eval()
    supervised = replace(given, pseudo=objective.labelled(f, given.pseudo))
    for name, want in everything.pixel_loss(f, supervised).items():
        torch.testing.assert_close(losses[name], want)
    inductive = ClipToSegConfig(supervision="features", latent=False).build(known(SEEN)).eval()
    for name in ("global", "local"):
        torch.testing.assert_close(losses[name], inductive(f, given)[name])


def test_labels_carry_no_gradient_and_unseen_embeddings_are_not_learnt():
    objective = method()
    assert isinstance(objective, SelfTraining)
    assert not objective.labelled(features().requires_grad_(), batch().pseudo).requires_grad
    assert [name for name, _ in objective.named_parameters() if "latent" in name] == []


@pytest.mark.parametrize("supervision", ["image", "features"])
def test_training_on_its_own_labels_sharpens_them(supervision):
    """A feature map trained by the pixel loss alone: latent pixels move to their first unseen label."""
    objective = method(supervision=supervision, global_=False, local=False)
    given = batch()
    f = features().requires_grad_()
    first = objective.labelled(f, given.pseudo)
    optimizer = torch.optim.Adam([f], lr=0.05)
    start = float(objective(f.detach(), given)["loss"])
    for _ in range(30):
        optimizer.zero_grad()
        loss = objective(f, given)["loss"]
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.5 * start
    latent = given.pseudo >= N
    assert (objective.labelled(f, given.pseudo) == first)[latent].float().mean() > 0.9
