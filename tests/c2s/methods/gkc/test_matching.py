"""Costs and assignments against transformers' matcher."""

from __future__ import annotations

import itertools

import torch
from transformers.models.mask2former.modeling_mask2former import (
    pair_wise_dice_loss,
    pair_wise_sigmoid_cross_entropy_loss,
)

from c2s.methods.gkc.matching import cost, likelihood, match

B, Q, N, P = 2, 5, 3, 40


def test_costs_are_those_of_transformers():
    torch.manual_seed(0)
    logits, targets = 3 * torch.randn(B, Q, P), (torch.rand(B, N, P) < 0.4).float()
    probabilities, channels = torch.rand(B, Q, 4), torch.tensor([[0, 2, -1], [3, 3, 1]])
    likely = likelihood(probabilities, channels)
    found = cost(logits, targets, likely, (5.0, 4.0, 2.0))
    for b in range(B):
        masks = pair_wise_sigmoid_cross_entropy_loss(logits[b], targets[b])
        dices = pair_wise_dice_loss(logits[b], targets[b])
        for q, n in itertools.product(range(Q), range(N)):
            p = probabilities[b, q, channels[b, n]] if channels[b, n] >= 0 else 0
            want = 5 * masks[q, n] + 4 * dices[q, n] - 2 * p
            torch.testing.assert_close(found[b, q, n], want, rtol=1e-4, atol=1e-5)


def best(table, places):
    """Of all assignments the cheapest."""
    queries = range(len(table))
    size = min(len(places), len(table))
    options = (
        tuple(zip(q, n, strict=True))
        for n in itertools.combinations(places, size)
        for q in itertools.permutations(queries, size)
    )
    return min(sum(float(table[q, n]) for q, n in pairs) for pairs in options)


def test_the_cheapest_pairs_are_taken():
    torch.manual_seed(1)
    for queries, segments in ((5, 3), (2, 4)):
        costs = torch.randn(3, queries, segments)
        there = torch.rand(3, segments) < 0.7
        there[0], there[1] = True, False
        found = match(costs, there)
        for b in range(3):
            mine = found.image == b
            places = torch.nonzero(there[b])[:, 0].tolist()
            assert int(mine.sum()) == min(len(places), queries)
            assert set(found.segment[mine].tolist()) <= set(places)
            assert len(set(found.query[mine].tolist())) == int(mine.sum())
            total = float(costs[b, found.query[mine], found.segment[mine]].sum())
            assert abs(total - (best(costs[b], places) if places else 0)) < 1e-5


def test_costs_that_are_no_numbers_are_chosen_last():
    costs = torch.tensor([[[torch.nan, 1.0], [2.0, torch.inf]]])
    found = match(costs, torch.ones(1, 2, dtype=torch.bool))
    assert sorted(zip(found.query.tolist(), found.segment.tolist(), strict=True)) == [
        (0, 1),
        (1, 0),
    ]
