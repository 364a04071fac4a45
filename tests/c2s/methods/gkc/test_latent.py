"""C2S's latent regions as further segments, with and without a class of their own, and tokens told apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gkc_cases import PLAIN, SEEN, SETS, B, C, N, Q, batch, build, facts, masks_of, queries

from c2s.methods.gkc import GKCBatch
from c2s.methods.gkc.examples import LATENT, NONE
from c2s.students.query import Queries


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_queries_of_latent_regions_are_not_taught_that_nothing_is_there():
    """They have masks and tokens, and whatever their class logits are changes no class loss."""
    method = build(points=0, latent="regions", **PLAIN | {"distillation": "text"})
    found, data = queries(), batch(((0, LATENT, NONE), (LATENT, LATENT, NONE)))
    pairs = method.matches(found, masks_of(data), data)
    image, query, segment = pairs[-1]
    assert int((data.classes[image, segment] == LATENT).sum()) == 3
    for tensor in found.embeddings:
        tensor.requires_grad_()
    losses = method.losses(found, data)
    (gradient,) = torch.autograd.grad(losses["ce"], found.embeddings[-1], retain_graph=True)
    latent = data.classes[image, segment] == LATENT
    assert float(gradient[image[latent], query[latent]].abs().max()) == 0
    assert float(gradient[image[~latent], query[~latent]].abs().min()) > 0
    other = batch(((0, LATENT, NONE), (LATENT, LATENT, NONE)))
    moved = GKCBatch(
        **{**vars(other), "tokens": other.tokens + (other.classes == LATENT)[..., None]}
    )
    again = method.losses(found, moved)
    assert not torch.equal(again["distillation"], losses["distillation"])


@pytest.mark.parametrize("how", ["off", "average"])
def test_latent_regions_can_be_classes_of_their_image(how):
    """By loops: seen classes by their texts, no object, and the latent regions of the query's own image by their
    tokens; queries that answer for them are drawn to these."""
    words = {"synonyms": {"how": how}}
    method = build(points=0, latent="classes", **PLAIN | words)
    found, data = queries(), batch(((0, LATENT, NONE), (LATENT, 5, LATENT)))
    pairs = method.matches(found, masks_of(data), data)
    total, rows = 0.0, facts().words.embeddings
    starts = np.cumsum((0, *(1, 2, 3, 1)))
    for i in range(SETS):
        target = {
            (int(b), int(q)): int(s)
            for b, q, s in zip(pairs[i].image, pairs[i].query, pairs[i].segment, strict=True)
        }
        above, below = 0.0, 0.0
        for b in range(B):
            tokens = {
                n: F.normalize(data.tokens[b, n], dim=0)
                for n in range(N)
                if int(data.classes[b, n]) == LATENT
            }
            for q in range(Q):
                v = F.normalize(found.embeddings[i][b, q], dim=0)
                each = [5.0 * float(torch.from_numpy(w) @ v) for w in rows]
                groups = [each[starts[c] : starts[c + 1]] for c in range(C)]
                logits = {c: g[0] if how == "off" else np.mean(g) for c, g in enumerate(groups)}
                logits["nothing"] = 5.0 * float(F.normalize(found.nothing, dim=0) @ v)
                logits |= {("latent", n): 5.0 * float(t @ v) for n, t in tokens.items()}
                n = target.get((b, q))
                answer = "nothing"
                if n is not None:
                    id_ = int(data.classes[b, n])
                    answer = ("latent", n) if id_ == LATENT else SEEN.index(id_)
                weight = 0.1 if answer == "nothing" else 1.0
                log_sum = float(torch.tensor(list(logits.values())).logsumexp(0))
                above -= weight * (logits[answer] - log_sum)
                below += weight
        total += above / below
    assert float(method.losses(found, data)["ce"]) == pytest.approx(total, rel=1e-4)


def test_latent_classes_have_a_part_in_the_matching():
    """Of two queries with one mask, the one that says a latent region's token answers for it."""
    data = batch(((LATENT, NONE, NONE), (LATENT, NONE, NONE)))
    found = queries()
    masks = tuple(m[:, :1].expand(-1, Q, -1, -1) for m in found.masks)
    embeddings = tuple(e.clone() for e in found.embeddings)
    for e in embeddings:
        e[:, 4] = data.tokens[:, 0]
    same = Queries(masks, found.shared, embeddings, found.nothing, found.scale)
    method = build(points=0, latent="classes", **PLAIN)
    for pairs in method.matches(same, masks_of(data), data):
        assert pairs.query.tolist() == [4, 4]


def test_queries_tell_the_tokens_of_the_batch_apart_as_far_as_these_differ():
    """By loops; least, for given tokens, where the embeddings are the tokens."""
    data, found = batch(((0, LATENT, NONE), (3, 2, LATENT))), queries()
    weights = {"weights": {"contrast": 3.0, "bce": 0, "dice": 0, "ce": 0}}
    method = build(points=0, latent="classes", **PLAIN | weights)
    pairs = method.matches(found, masks_of(data), data)
    total = 0.0
    for i, (image, query, segment) in enumerate(pairs):
        unit = F.normalize(data.tokens[image, segment], dim=-1).numpy()
        ours = F.normalize(found.embeddings[i][image, query], dim=-1).numpy()
        for n, token in enumerate(unit):
            wanted = np.exp(5 * unit @ token) / np.exp(5 * unit @ token).sum()
            said = 5 * unit @ ours[n] - np.log(np.exp(5 * unit @ ours[n]).sum())
            total -= float(wanted @ said) / len(unit)
    got = method.losses(found, data)
    assert float(got["contrast"]) == pytest.approx(total, rel=1e-5)
    assert float(got["loss"]) == pytest.approx(3 * total, rel=1e-5)
    image, query, segment = pairs[-1]
    there = found.embeddings[-1].clone()
    there[image, query] = data.tokens[image, segment]
    best = Queries(
        found.masks, found.shared, (*found.embeddings[:-1], there), found.nothing, found.scale
    )
    least = method._contrast(best, SETS - 1, pairs[-1], data)
    assert float(least) < float(method._contrast(found, SETS - 1, pairs[-1], data))
