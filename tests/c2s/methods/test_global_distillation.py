"""Global distillation against the printed equations, written out as loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from c2s.methods.clip_to_seg.global_distillation import (
    CLSBank,
    aggregate,
    info_nce,
    match,
    others,
)
from c2s.methods.feature_map import FeatureMap


def dot(a, b):
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def unit(v):
    norm = math.sqrt(dot(v, v))
    return [float(x) / norm for x in v]


def test_attention_is_the_printed_softmax_over_positions():
    features, cls = (
        torch.randn(2, 6, 3, 4, dtype=torch.float64),
        torch.randn(2, 6, dtype=torch.float64),
    )
    out = aggregate(FeatureMap(features), cls)
    for b in range(2):
        columns = [features[b, :, y, x].tolist() for y in range(3) for x in range(4)]
        scores = [math.exp(dot(cls[b], column) / math.sqrt(6)) for column in columns]
        weights = [s / sum(scores) for s in scores]
        expected = [sum(w * c[d] for w, c in zip(weights, columns, strict=True)) for d in range(6)]
        assert out[b].tolist() == pytest.approx(expected)


def test_mean_and_max_pool_every_channel():
    features = torch.randn(2, 5, 3, 2)
    cls = torch.randn(2, 5)
    for b in range(2):
        for d in range(5):
            values = features[b, d].flatten().tolist()
            assert aggregate(FeatureMap(features), cls, "mean")[b, d].item() == pytest.approx(
                sum(values) / 6, abs=1e-6
            )
            assert aggregate(FeatureMap(features), cls, "max")[b, d].item() == max(values)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("bank", [0, 1, 5])
def test_info_nce_is_equation_4_with_the_logarithm(normalize, bank):
    query, positive = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    negatives = torch.randn(bank, 4, dtype=torch.float64)
    form = unit if normalize else (lambda v: v.tolist())
    total = 0.0
    for q, p in zip(query, positive, strict=True):
        own = math.exp(dot(form(q), form(p)) / 0.5)
        rest = sum(math.exp(dot(form(q), form(n)) / 0.5) for n in negatives)
        total += -math.log(own / (own + rest))
    assert info_nce(query, positive, negatives, 0.5, normalize).item() == pytest.approx(total / 3)


def test_info_nce_takes_negatives_per_query():
    query, positive, negatives = torch.randn(2, 4), torch.randn(2, 4), torch.randn(2, 3, 4)
    each = [info_nce(query[i : i + 1], positive[i : i + 1], negatives[i], 0.1) for i in range(2)]
    assert info_nce(query, positive, negatives, 0.1).item() == pytest.approx(
        sum(each).item() / 2, rel=1e-5
    )


def test_others_are_all_rows_but_the_own():
    tokens = torch.randn(3, 2)
    assert torch.equal(others(tokens)[1], tokens[[0, 2]])
    assert others(tokens).shape == (3, 2, 2)
    assert others(tokens[:1]).shape == (1, 0, 2)


def test_match_by_hand():
    a, b = torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, 3.0]])
    assert match(a, b, "cosine").item() == pytest.approx(1 - 24 / 25)
    assert match(a, b, "l2").item() == pytest.approx(1.0)


@settings(max_examples=50, deadline=None)
@given(size=st.integers(0, 7), batches=st.lists(st.integers(1, 9), max_size=6))
def test_bank_holds_the_last_tokens(size, batches):
    bank, history, count = CLSBank(size, 1), [], 0
    for length in batches:
        tokens = torch.arange(count, count + length, dtype=torch.float32)[:, None]
        bank.enqueue(tokens)
        history.extend(tokens.flatten().tolist())
        count += length
    assert (
        sorted(bank.filled().flatten().tolist())
        == history[len(history) - min(size, len(history)) :]
    )


def test_bank_travels_in_the_state_dict():
    bank, copy = CLSBank(3, 2), CLSBank(3, 2)
    bank.enqueue(torch.randn(4, 2))
    copy.load_state_dict(bank.state_dict())
    more = torch.randn(1, 2)
    bank.enqueue(more)
    copy.enqueue(more)
    assert torch.equal(bank.filled(), copy.filled())
