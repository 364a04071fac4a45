"""Self-training: who may label a pixel, and with what."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as functional

from c2s.methods import Facts
from c2s.methods.clip_to_seg import ClipToSegBatch, ClipToSegConfig, SelfTraining
from c2s.vocabulary import Vocabulary

N, D, SIZE = 5, 8, 12
SEEN, UNSEEN = [0, 2, 3], [1, 4]


def text(ids):
    generator = torch.Generator().manual_seed(0)
    return functional.normalize(torch.randn(N, D, generator=generator), dim=1)[ids]


def known(ids):
    return Vocabulary(tuple(map(str, ids)), text(ids).numpy(), ids=tuple(ids))


def method(**settings):
    config = ClipToSegConfig(**({"supervision": "features", "heads": 2} | settings))
    return config.build(Facts(known(SEEN), N, known(UNSEEN))).eval()


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    choices = torch.tensor([-1, *SEEN, N, N + 1])
    pseudo = choices[torch.randint(len(choices), (2, SIZE, SIZE), generator=generator)]
    void = torch.rand(pseudo.shape, generator=generator) < 0.3
    ids = torch.tensor([[0, 3, N, N + 1], [2, N, -1, -1]])
    return ClipToSegBatch(
        image=torch.zeros(2, 3, SIZE, SIZE, dtype=torch.uint8),
        pseudo=pseudo,
        global_cls=torch.randn(2, D, generator=generator),
        region_cls=torch.randn(2, 4, D, generator=generator) * (ids >= 0)[..., None],
        region_ids=ids,
        unseen=~torch.isin(pseudo, torch.tensor(SEEN)) & ~void,
    )


def features(seed=1):
    return torch.randn(2, D, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def zegclip(logits, full):
    """ZegCLIP's labels of one image (protocol of the family), from its label map before anything is removed.

    A table of 256 entries: seen id -> itself, unseen id -> -1, 255 -> 255. Pixels of -1 get the class of
    the largest sigmoid among the unseen ones. logits float [N, H, W]; full uint8 [H, W].
    """
    table = np.full(256, -1)
    table[SEEN] = SEEN
    table[255] = 255
    labels = table[full]
    scores = 1 / (1 + np.exp(-logits.astype(np.float64)))
    scores[SEEN] = -1
    return np.where(labels == -1, scores.argmax(0), labels)


@pytest.mark.parametrize("coarse", [SIZE, SIZE // 3])
def test_labels_are_those_of_zegclip(coarse):
    """On label maps as a data set has them: of all classes, with pixels of none."""
    rng = np.random.default_rng(3)
    full = rng.choice(np.array([*range(N), 255], np.uint8), (2, SIZE, SIZE))
    seen = np.isin(full, SEEN)
    latents = rng.choice([-1, N, N + 1], full.shape)
    given = replace(
        batch(),
        pseudo=torch.from_numpy(np.where(seen, full, latents).astype(np.int64)),
        unseen=torch.from_numpy(~seen & (full != 255)),
    )
    f = torch.randn(2, D, coarse, coarse, generator=torch.Generator().manual_seed(1))
    logits = torch.einsum("bdhw,nd->bnhw", functional.normalize(f, dim=1), text(range(N)))
    logits = functional.interpolate(14 * logits, (SIZE, SIZE), mode="bilinear", align_corners=False)
    want = np.stack([zegclip(x.numpy(), y) for x, y in zip(logits, full, strict=True)])
    got = method().labelled(f, given).numpy()
    np.testing.assert_array_equal(np.where(got == -1, 255, got), want)
    assert {*UNSEEN, *SEEN, 255} == set(np.unique(want))


def test_a_pixel_that_looks_like_a_seen_class_still_gets_an_unseen_one():
    objective = method()
    given = batch()
    f = text([0])[0].view(1, D, 1, 1).expand(2, D, SIZE, SIZE)
    got = objective.labelled(f, given)
    assert set(got[given.unseen].tolist()) <= set(UNSEEN)


def test_a_batch_that_does_not_tell_unseen_pixels_is_refused():
    with pytest.raises(ValueError, match="which pixels are of unseen classes"):
        method().labelled(features(), replace(batch(), unseen=None))


def test_confidence_leaves_doubtful_pixels_unlabelled():
    given, f = batch(), features()
    unseen = given.unseen
    config = ClipToSegConfig()
    table = torch.cat([text(SEEN), text(UNSEEN)])
    scores = torch.einsum("bdhw,nd->bnhw", functional.normalize(f, dim=1), table)
    best = (config.alpha * scores).softmax(1)[:, len(SEEN) :].amax(1)
    got, sure = method(confidence=0.5).labelled(f, given), method().labelled(f, given)
    assert torch.equal(got[unseen] >= 0, best[unseen] >= 0.5)
    assert torch.equal(got[~unseen], sure[~unseen])


def test_the_pixel_loss_is_the_supervised_one_on_the_new_labels():
    """With labels instead of latents, an inductive method that knows every class agrees."""
    objective, given, f = method(), batch(), features().requires_grad_()
    losses = objective.losses(f, given)
    labels_only = {
        "latent_embedding": False,
        "global_distillation": False,
        "local_distillation": False,
    }
    everything = ClipToSegConfig(supervision="features", **labels_only).build(
        Facts(known(range(N)), N)
    )
    want = everything.eval().losses(f, replace(given, pseudo=objective.labelled(f, given)))
    for name in ("focal", "dice", "ce", "pixel"):
        torch.testing.assert_close(losses[name], want[name])
    inductive = (
        ClipToSegConfig(supervision="features", latent_embedding=False)
        .build(Facts(known(SEEN), N))
        .eval()
    )
    for name in ("global", "local"):
        torch.testing.assert_close(losses[name], inductive.losses(f, given)[name])


def test_labels_carry_no_gradient_and_unseen_embeddings_are_not_learnt():
    objective = method()
    assert isinstance(objective, SelfTraining)
    assert not objective.labelled(features().requires_grad_(), batch()).requires_grad
    assert [name for name, _ in objective.named_parameters() if "latent" in name] == []


@pytest.mark.parametrize("supervision", ["image", "features"])
def test_training_on_its_own_labels_sharpens_them(supervision):
    """A feature map trained by the pixel loss alone: unseen pixels move to their first label."""
    objective = method(supervision=supervision, global_distillation=False, local_distillation=False)
    given = batch()
    f = features().requires_grad_()
    first = objective.labelled(f, given)
    optimizer = torch.optim.Adam([f], lr=0.05)
    start = float(objective.losses(f.detach(), given)["loss"])
    for _ in range(30):
        optimizer.zero_grad()
        loss = objective.losses(f, given)["loss"]
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.5 * start
    assert (objective.labelled(f, given) == first)[given.unseen].float().mean() > 0.9
