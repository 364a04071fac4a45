"""The batch sequence: a partition of the data, whoever asks and wherever one starts."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from c2s.training.sampler import BatchSequence, dropout_seed, jitter_rng

sizes = st.lists(st.integers(0, 5), min_size=1, max_size=8).map(tuple).filter(sum)
sequences = st.builds(
    BatchSequence,
    block_sizes=sizes,
    batch_size=st.integers(1, 6),
    seed=st.integers(0, 99),
    shuffle_blocks=st.integers(1, 4),
    views=st.integers(1, 4),
)


def epoch_order(block_sizes, seed, epoch, window):
    """The order of an epoch as it is defined, whole: [rows, 2] of (block, item)."""
    rng = np.random.default_rng([seed, 0, epoch])
    blocks = rng.permutation(len(block_sizes))
    parts = []
    for start in range(0, len(blocks), window):
        held = blocks[start : start + window]
        rows = [np.stack([np.full(block_sizes[b], b), np.arange(block_sizes[b])], 1) for b in held]
        parts.append(rng.permutation(np.concatenate(rows), axis=0))
    return np.concatenate(parts)


def by_definition(sequence, position):
    """The sample at a position: epoch orders whole, and a draw of views block by block."""
    sizes = sequence.block_sizes
    epoch, place = divmod(position, sum(sizes))
    block, item = epoch_order(sizes, sequence.seed, epoch, sequence.shuffle_blocks)[place].tolist()
    rng = np.random.default_rng([sequence.seed, 1])
    first = [rng.integers(sequence.views, size=size) for size in sizes][block]
    return (block, item, int(first[item] + epoch) % sequence.views, position)


@settings(deadline=None, max_examples=50)
@given(
    sequence=st.builds(
        BatchSequence,
        block_sizes=st.lists(st.integers(0, 40), min_size=1, max_size=30).map(tuple).filter(sum),
        batch_size=st.sampled_from([1, 4, 12, 60]),
        seed=st.integers(0, 2**40),
        shuffle_blocks=st.integers(1, 9),
        views=st.sampled_from([1, 2, 3, 300]),
    ),
    steps=st.lists(st.integers(0, 60), min_size=1, max_size=5),
    parts=st.sampled_from([1, 2, 3]),
)
def test_batches_are_those_of_the_definition(sequence, steps, parts):
    """In whatever order and parts they are asked for; a run that is resumed asks for one far ahead."""
    if sequence.batch_size % parts:
        parts = 1
    for step in steps:
        got = [ref for part in range(parts) for ref in sequence.batch(step, part, parts)]
        start = step * sequence.batch_size
        assert got == [by_definition(sequence, start + i) for i in range(sequence.batch_size)]


def test_a_batch_draws_the_order_of_its_window_and_of_no_other_rows():
    many = BatchSequence((128,) * 100_000, 64)
    many.batch(3)
    many.batch(15)
    (epoch,) = many._epochs.values()
    assert [len(order) for order in epoch._held.values()] == [8 * 128]


def test_a_sequence_travels_without_what_it_has_drawn():
    sequence = BatchSequence((50,) * 1000, 8, views=3)
    before = len(pickle.dumps(sequence))
    sequence.batch(0)
    assert len(pickle.dumps(sequence)) == before
    assert pickle.loads(pickle.dumps(sequence)).batch(7) == sequence.batch(7)


@given(sequence=sequences, epoch=st.integers(0, 3))
def test_an_epoch_visits_every_row_once_window_by_window(sequence, epoch):
    first = epoch * sequence.rows
    refs = [sequence.sample(first + place) for place in range(sequence.rows)]
    order = np.array([(ref.block, ref.item) for ref in refs])
    rows = [(b, i) for b, size in enumerate(sequence.block_sizes) for i in range(size)]
    assert sorted(map(tuple, order.tolist())) == rows
    # Rows come window by window: those of `window` blocks, then those of the next ones.
    blocks = order[:, 0].tolist()
    for place, block in enumerate(blocks):
        between = set(blocks[place : len(blocks) - blocks[::-1].index(block)])
        assert len(between) <= sequence.shuffle_blocks


@given(sequence=sequences, step=st.integers(0, 20), world=st.integers(1, 6))
def test_processes_only_partition_a_batch(sequence, step, world):
    if sequence.batch_size % world:
        with pytest.raises(ValueError, match="no multiple"):
            sequence.batch(step, 0, world)
    else:
        parts = [ref for rank in range(world) for ref in sequence.batch(step, rank, world)]
        assert parts == sequence.batch(step)


@settings(max_examples=40)
@given(sequence=sequences)
def test_every_view_of_a_row_is_shown_once_in_v_epochs(sequence):
    total = sum(sequence.block_sizes) * sequence.views
    shown = Counter()
    for position in range(total):
        ref = sequence.sample(position)
        shown[ref.block, ref.item, ref.view] += 1
    assert set(shown.values()) == {1}
    assert len(shown) == total


def test_seeds_and_epochs_differ():
    runs = [BatchSequence((50, 50), 100, seed=s, shuffle_blocks=2) for s in (0, 1)]
    orders = [[ref[:2] for ref in run.batch(epoch)] for run in runs for epoch in (0, 1)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])


def test_jitter_streams_depend_on_seed_and_position_only():
    assert jitter_rng(3, 7).random() == jitter_rng(3, 7).random()
    draws = {jitter_rng(s, p).random() for s in range(3) for p in range(3)}
    assert len(draws) == 9


GOLDEN = [[0, 0], [0, 1], [2, 2], [0, 2], [2, 3], [2, 1], [2, 0], [1, 0], [1, 1]]


def test_order_is_pinned():
    """A golden value: this order must never change between versions, or resumed runs would bend."""
    batch = BatchSequence((3, 2, 4), 9, seed=0, shuffle_blocks=2).batch(0)
    assert [[ref.block, ref.item] for ref in batch] == GOLDEN


@given(sequence=sequences, step=st.integers(0, 9), parts=st.integers(1, 4))
def test_dropout_seeds_differ_by_iteration_and_part(sequence, step, parts):
    seeds = [dropout_seed(sequence.seed, s, p) for s in (step, step + 1) for p in range(parts)]
    assert len(set(seeds)) == 2 * parts
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seeds == [
        dropout_seed(sequence.seed, s, p) for s in (step, step + 1) for p in range(parts)
    ]
