"""Eq. 1 and what is drawn by it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from c2s.methods.gkc.diversification import Words, draw
from c2s.vocabulary import Vocabulary, unit_norm

D = 5


def words(*counts):
    rows = unit_norm(np.random.default_rng(0).normal(size=(sum(counts), D)))
    names = tuple(tuple(f"{c}-{i}" for i in range(n)) for c, n in enumerate(counts))
    return Vocabulary(tuple("abcdef"[: len(counts)]), rows, names=names), rows


def test_scores_are_those_of_eq_1():
    vocabulary, rows = words(1, 3, 2)
    tokens, channels = torch.randn(4, D), torch.tensor([1, 0, 2, 1])
    scores = Words(vocabulary).scores(tokens, channels, 7.0)
    starts = [0, 1, 4, 6]
    for m, c in enumerate(channels.tolist()):
        r = tokens[m].numpy() / np.linalg.norm(tokens[m].numpy())
        e = [np.exp(7 * float(r @ w)) for w in rows[starts[c] : starts[c + 1]]]
        want = [v / sum(e) for v in e] + [0.0] * (3 - len(e))
        np.testing.assert_allclose(scores[m], want, rtol=1e-4)


@given(st.integers(0, 2**32 - 1), st.floats(0, 0.6))
def test_a_word_is_above_the_threshold_unless_none_is(seed, threshold):
    rng = np.random.default_rng(seed)
    there = rng.random((6, 4)) < 0.7
    there[:, 0] = True
    raw = np.where(there, rng.random((6, 4)) ** 3, 0)
    scores = torch.from_numpy(raw / raw.sum(1, keepdims=True)).float()
    torch.manual_seed(seed % 2**31)
    for row, word in enumerate(
        draw(scores, torch.from_numpy(there), "threshold", threshold).tolist()
    ):
        assert there[row, word]
        above = scores[row] > threshold
        if bool(above.any()):
            assert bool(above[word])
        else:
            assert word == int(scores[row].argmax())


@pytest.mark.parametrize("sampling", ["score", "threshold"])
def test_words_are_drawn_as_often_as_said(sampling):
    count = 20_000
    scores = torch.tensor([0.55, 0.3, 0.1, 0.05]).expand(count, -1)
    torch.manual_seed(0)
    found = draw(scores, torch.ones(count, 4, dtype=torch.bool), sampling, 0.15)
    share = torch.bincount(found, minlength=4) / count
    want = {"score": [0.55, 0.3, 0.1, 0.05], "threshold": [0.5, 0.5, 0, 0]}[sampling]
    for got, p in zip(share.tolist(), want, strict=True):
        assert abs(got - p) <= 3 * (p * (1 - p) / count) ** 0.5


def test_all_words_together():
    vocabulary, rows = words(1, 3, 2)
    module, v = Words(vocabulary), torch.randn(2, 3, D)
    every = v @ module.embeddings.flatten(0, 1).T
    alone = np.split(v.numpy() @ rows.T, [1, 4], axis=-1)
    for how, reduce in (("average", np.mean), ("maximum", np.max)):
        want = np.stack([reduce(part, axis=-1) for part in alone], -1)
        np.testing.assert_allclose(module.logits(every, how), want, rtol=1e-4, atol=1e-6)


def test_nothing_is_drawn_for_no_segment():
    assert draw(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.bool), "score", 0.1).shape == (0,)
