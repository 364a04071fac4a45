"""Grounding on captions: against loops, what changes nothing, and what is drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from c2s.methods.gkc.grounding import draw_words, ground, regions_of
from c2s.methods.gkc.matching import Matches

D = 5
SEEDS = st.integers(0, 2**32 - 1)


def drawn(seed, images=None, most=4):
    """Words and regions of a few images, some with none of either."""
    rng = np.random.default_rng(seed)
    images = int(rng.integers(1, 6)) if images is None else images
    words, regions = (torch.from_numpy(rng.normal(size=(images, most, D))) for _ in range(2))
    said, shown = (torch.from_numpy(rng.random((images, most)) < 0.6) for _ in range(2))
    return words, said, regions, shown


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def softmax(values):
    largest = max(values)
    parts = [math.exp(v - largest) for v in values]
    return [p / sum(parts) for p in parts]


def entropy(distances, own):
    return -math.log(softmax([-d for d in distances])[own])


def loops(words, said, regions, shown, scale):
    """In double precision, of the words and regions that there are."""
    pairs = []
    for w, s, r, t in zip(words, said, regions, shown, strict=True):
        if bool(s.any()) and bool(t.any()):
            pairs.append((w[s].tolist(), r[t].tolist()))
    n = len(pairs)
    if n < 2:
        return 0.0
    by_word, by_region = ([[0.0] * n for _ in range(n)] for _ in range(2))
    for c, (caption, _) in enumerate(pairs):
        for i, (_, image) in enumerate(pairs):
            near = [[scale * cosine(w, r) for r in image] for w in caption]
            far = [[scale - e for e in row] for row in near]
            for k, row in enumerate(near):
                share = softmax(row)
                by_word[c][i] += sum(a * d for a, d in zip(share, far[k], strict=True)) / len(near)
            for k in range(len(image)):
                share = softmax([row[k] for row in near])
                column = [row[k] for row in far]
                by_region[c][i] += sum(a * d for a, d in zip(share, column, strict=True)) / len(
                    image
                )
    total = 0.0
    for distances in (by_word, by_region):
        for k in range(n):
            total += entropy(distances[k], k) + entropy([row[k] for row in distances], k)
    return total / (4 * n)


@given(SEEDS, st.floats(0.5, 30))
def test_against_loops(seed, scale):
    values = drawn(seed)
    want = loops(*values, scale)
    got = ground(*values, torch.tensor(scale))
    assert float(got) == pytest.approx(want, rel=1e-4, abs=1e-5)


@given(SEEDS)
def test_padded_words_and_regions_change_nothing(seed):
    words, said, regions, shown = drawn(seed, 4)
    scale, rng = torch.tensor(8.0), np.random.default_rng(seed + 1)
    want = ground(words, said, regions, shown, scale)
    noise = torch.from_numpy(rng.normal(size=words.shape))
    other = ground(
        torch.where(said[..., None], words, noise), said,
        torch.where(shown[..., None], regions, 3 * noise), shown, scale,
    )  # fmt: skip
    torch.testing.assert_close(other, want)
    none = torch.zeros(4, 3, dtype=torch.bool)
    more = torch.from_numpy(rng.normal(size=(4, 3, D)))
    longer = ground(
        torch.cat([words, more], 1), torch.cat([said, none], 1),
        torch.cat([more, regions], 1), torch.cat([none, shown], 1), scale,
    )  # fmt: skip
    torch.testing.assert_close(longer, want)


@given(SEEDS)
def test_images_without_a_word_or_a_region_are_left_out(seed):
    words, said, regions, shown = drawn(seed, 4)
    said[1], shown[2] = False, False
    want = ground(words, said, regions, shown, torch.tensor(8.0))
    kept = [0, 3]
    few = ground(words[kept], said[kept], regions[kept], shown[kept], torch.tensor(8.0))
    torch.testing.assert_close(few, want)


@pytest.mark.parametrize("without", [slice(0, None), slice(1, None)])
def test_of_fewer_than_two_captioned_images_nothing_is_learnt(without):
    words, said, regions, shown = drawn(3, 3)
    said[:], shown[:] = True, True
    said[without] = False
    regions.requires_grad_()
    loss = ground(words, said, regions, shown, torch.tensor(8.0))
    loss.backward()
    assert float(loss.detach()) == 0
    assert float(regions.grad.abs().max()) == 0


@given(SEEDS)
def test_length_and_order_decide_nothing(seed):
    words, said, regions, shown = drawn(seed, 4)
    want = ground(words, said, regions, shown, torch.tensor(8.0))
    order = torch.from_numpy(np.random.default_rng(seed).permutation(4))
    moved = ground(
        2 * words[order].flip(1), said[order].flip(1), 3 * regions[order], shown[order],
        torch.tensor(8.0),
    )  # fmt: skip
    torch.testing.assert_close(moved, want)


def test_captions_whose_words_are_in_their_own_images_cost_next_to_nothing():
    """And the loss falls where a region turns to a word of its caption."""
    words = torch.eye(4)[:, None]
    there = torch.ones(4, 1, dtype=torch.bool)
    assert float(ground(words, there, words, there, torch.tensor(30.0))) < 1e-5
    assert float(ground(words, there, words.roll(1, 0), there, torch.tensor(30.0))) > 10
    regions = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 1, 4))).requires_grad_()
    loss = ground(words, there, regions, there, torch.tensor(10.0))
    loss.backward()
    nearer = regions.detach() - 0.01 * regions.grad
    assert float(ground(words, there, nearer, there, torch.tensor(10.0))) < float(loss.detach())


def test_gradients_are_finite_with_padding():
    words, said, regions, shown = drawn(5, 4)
    regions[~shown] = 0
    regions.requires_grad_()
    scale = torch.tensor(10.0, requires_grad=True)
    ground(words, said, regions, shown, scale).backward()
    assert bool(regions.grad.isfinite().all())
    assert float(regions.grad[~shown].abs().max()) == 0
    assert bool(scale.grad.isfinite())


def test_one_caption_is_drawn_and_its_first_words():
    captions = torch.tensor([[[1, 2, 3, 4], [5, -1, -1, -1]], [[-1, -1, -1, -1], [6, 7, -1, -1]]])
    torch.manual_seed(0)
    seen = {tuple(row) for _ in range(40) for row in draw_words(captions, 0.0, 3).tolist()}
    assert seen == {(1, 2, 3), (5, -1, -1), (6, 7, -1)}
    none = torch.full((2, 1, 1), -1)
    assert draw_words(none, 0.0, 3).tolist() == [[-1], [-1]]


def test_words_are_dropped_before_they_are_counted():
    torch.manual_seed(0)
    words = draw_words(torch.arange(8).expand(4000, 1, 8), 0.25, 5)
    kept = words != -1
    share = float(draw_words(torch.arange(8).expand(4000, 1, 8), 0.25, 8).ne(-1).float().mean())
    assert share == pytest.approx(0.75, abs=3 * math.sqrt(0.75 * 0.25 / 32_000))
    assert int(words.max()) == 7  # in place of one that was dropped
    assert bool((words[:, 1:] > words[:, :-1])[kept[:, 1:]].all())


def test_regions_are_the_first_matched_queries_of_each_image():
    embeddings = torch.arange(3 * 4 * 2.0).reshape(3, 4, 2).requires_grad_()
    matches = Matches(*(torch.tensor(v) for v in ([0, 0, 0, 2], [1, 2, 3, 0], [0, 1, 2, 0])))
    regions, there = regions_of(embeddings, matches, 2)
    assert there.tolist() == [[True, True], [False, False], [True, False]]
    assert torch.equal(regions[0], embeddings[0, 1:3])
    assert torch.equal(regions[2, 0], embeddings[2, 0])
    assert float(regions.detach()[~there].abs().sum()) == 0
    regions.sum().backward()
    assert embeddings.grad.sum((1, 2)).tolist() == [4, 0, 2]
    none = Matches(*(torch.zeros(0, dtype=torch.int64) for _ in range(3)))
    assert not regions_of(embeddings, none, 2)[1].any()
