"""The batch sequence: a partition of the data, whoever asks and wherever one starts."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from c2s.training.sampler import BatchSequence, dropout_seed, epoch_order, jitter_rng

sizes = st.lists(st.integers(0, 5), min_size=1, max_size=8).map(tuple).filter(sum)
sequences = st.builds(
    BatchSequence,
    block_sizes=sizes,
    batch_size=st.integers(1, 6),
    seed=st.integers(0, 99),
    window=st.integers(1, 4),
    views=st.integers(1, 4),
)


@given(sequence=sequences, epoch=st.integers(0, 3))
def test_an_epoch_visits_every_row_once_window_by_window(sequence, epoch):
    order = epoch_order(sequence.block_sizes, sequence.seed, epoch, sequence.window)
    rows = [(b, i) for b, size in enumerate(sequence.block_sizes) for i in range(size)]
    assert sorted(map(tuple, order.tolist())) == rows
    # Rows come window by window: those of `window` blocks, then those of the next ones.
    blocks = order[:, 0].tolist()
    for place, block in enumerate(blocks):
        between = set(blocks[place : len(blocks) - blocks[::-1].index(block)])
        assert len(between) <= sequence.window


@given(sequence=sequences, start=st.integers(0, 9))
def test_batches_run_through_epochs_without_a_gap(sequence, start):
    total = sum(sequence.block_sizes)
    for step in range(start, start + 3):
        for offset, ref in enumerate(sequence.batch(step)):
            assert ref.position == step * sequence.batch_size + offset
            epoch, place = divmod(ref.position, total)
            order = epoch_order(sequence.block_sizes, sequence.seed, epoch, sequence.window)
            assert (ref.block, ref.item) == tuple(order[place].tolist())


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
    block_sizes = (50, 50)
    orders = [epoch_order(block_sizes, s, e, 2).tolist() for s in (0, 1) for e in (0, 1)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])


def test_jitter_streams_depend_on_seed_and_position_only():
    assert jitter_rng(3, 7).random() == jitter_rng(3, 7).random()
    draws = {jitter_rng(s, p).random() for s in range(3) for p in range(3)}
    assert len(draws) == 9


GOLDEN = [[0, 0], [0, 1], [2, 2], [0, 2], [2, 3], [2, 1], [2, 0], [1, 0], [1, 1]]


def test_order_is_pinned():
    """A golden value: this order must never change between versions, or resumed runs would bend."""
    order = epoch_order((3, 2, 4), 0, 0, 2)
    assert order.tolist() == GOLDEN


@given(sequence=sequences, step=st.integers(0, 9), parts=st.integers(1, 4))
def test_dropout_seeds_differ_by_iteration_and_part(sequence, step, parts):
    seeds = [dropout_seed(sequence.seed, s, p) for s in (step, step + 1) for p in range(parts)]
    assert len(set(seeds)) == 2 * parts
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seeds == [
        dropout_seed(sequence.seed, s, p) for s in (step, step + 1) for p in range(parts)
    ]
