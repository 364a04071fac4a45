"""The batch sequence: a partition of the data, whoever asks and wherever one starts."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace

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


def stretches(draw):
    """Blocks of clips: of each how many of its frames are there."""
    blocks = draw(st.lists(st.lists(st.integers(1, 9), max_size=5), min_size=1, max_size=6))
    frames = draw(st.integers(2, 4))
    if max((n for block in blocks for n in block), default=0) < frames:
        blocks.append([frames])
    return tuple(map(tuple, blocks)), frames


@st.composite
def of_clips(draw):
    """A sequence whose batches are of one to three groups."""
    clips, frames = stretches(draw)
    return BatchSequence(
        tuple(map(sum, clips)),
        frames * draw(st.integers(1, 3)),
        draw(st.integers(0, 99)),
        draw(st.integers(1, 4)),
        draw(st.integers(1, 3)),
        frames,
        clips,
    )


def groups_by_definition(sequence, epoch):
    """The groups of an epoch in their order, whole: (block, first row)."""
    t = sequence.frames
    lengths = [n for clips in sequence.clips for n in clips]
    shifts = np.random.default_rng([sequence.seed, 5, epoch]).integers([n % t + 1 for n in lengths])
    shifts = iter(shifts.tolist())
    starts = []
    for clips in sequence.clips:
        starts.append([])
        for i, n in enumerate(clips):
            first = sum(clips[:i]) + next(shifts)
            starts[-1] += [first + t * k for k in range(n // t)]
    counts = tuple(map(len, starts))
    order = epoch_order(counts, sequence.seed, epoch, sequence.shuffle_blocks)
    return [(b, starts[b][nth]) for b, nth in order.tolist()]


@settings(deadline=None, max_examples=60)
@given(sequence=of_clips(), steps=st.lists(st.integers(0, 30), min_size=1, max_size=5))
def test_batches_of_clips_are_those_of_the_definition(sequence, steps):
    """Whoever asks, in whatever order: a run that is resumed asks for one far ahead."""
    t = sequence.frames
    per_epoch = len(groups_by_definition(sequence, 0))
    assert sequence.rows == t * per_epoch
    for step in steps:
        refs = pickle.loads(pickle.dumps(sequence)).batch(step)
        assert refs == sequence.batch(step)
        start = step * sequence.batch_size
        assert [ref.position for ref in refs] == [start + i for i in range(len(refs))]
        for ref in refs:
            epoch, nth = divmod(ref.position // t, per_epoch)
            block, first = groups_by_definition(sequence, epoch)[nth]
            assert ref[:2] == (block, first + ref.position % t)
            leader = sequence.leader(ref)
            assert leader[:2] == (block, first)
            assert leader == sequence.sample(leader.position)
        groups = {ref.position // t: ref.view for ref in refs}
        assert all(ref.view == groups[ref.position // t] for ref in refs)


@given(sequence=of_clips(), epoch=st.integers(0, 3))
def test_a_group_is_of_one_clip_and_comes_once_an_epoch(sequence, epoch):
    t = sequence.frames
    owner = {
        (block, row): (block, clip)
        for block, clips in enumerate(sequence.clips)
        for row, clip in enumerate(i for i, n in enumerate(clips) for _ in range(n))
    }
    first = epoch * sequence.rows
    refs = [sequence.sample(first + place) for place in range(sequence.rows)]
    shown = Counter()
    for at in range(0, len(refs), t):
        group = refs[at : at + t]
        (clip,) = {owner[ref[:2]] for ref in group}
        assert [ref.item - group[0].item for ref in group] == list(range(t))
        shown[clip] += 1
    assert len({ref[:2] for ref in refs}) == len(refs)
    lengths = {(b, i): n for b, clips in enumerate(sequence.clips) for i, n in enumerate(clips)}
    assert shown == {clip: n // t for clip, n in lengths.items() if n >= t}


def test_every_frame_of_a_clip_has_its_turn():
    """Five frames have one group of three, which begins elsewhere in another epoch."""
    sequence = BatchSequence((5,), 3, frames=3, clips=((5,),))
    firsts = {sequence.batch(epoch)[0].item for epoch in range(30)}
    assert firsts == {0, 1, 2}


@given(sequence=of_clips(), step=st.integers(0, 9), parts=st.integers(1, 4))
def test_processes_take_whole_groups(sequence, step, parts):
    if sequence.batch_size % (parts * sequence.frames):
        with pytest.raises(ValueError, match="no multiple"):
            sequence.batch(step, 0, parts)
    else:
        found = [ref for part in range(parts) for ref in sequence.batch(step, part, parts)]
        assert found == sequence.batch(step)


@given(sequence=sequences, step=st.integers(0, 20))
def test_rows_alone_do_not_look_at_clips(sequence, step):
    known = tuple((size,) for size in sequence.block_sizes)
    assert replace(sequence, clips=known).batch(step) == sequence.batch(step)
    ref = sequence.batch(step)[0]
    assert sequence.leader(ref) == ref
