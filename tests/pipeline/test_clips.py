"""Clips: frames that stay together, and what is stored of them."""

from __future__ import annotations

from itertools import groupby

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from moving_frames import MOVING, Frames, frames_manifest

from c2s.datasets import load_dataset
from c2s.testing import shapes
from c2s_cache import Block
from c2s_pipeline.build.request import build_request
from c2s_pipeline.build.rows import new_rows
from c2s_pipeline.stages.clips import CLIP, END, THING, Clips, clip_number
from c2s_pipeline.stages.instances import MAP
from c2s_pipeline.stages.registry import closed


@given(seed=st.integers(0, 99), limit=st.integers(1, 2000))
def test_frames_of_a_clip_are_rows_that_follow_each_other(seed, limit):
    (ids,) = new_rows(MOVING, build_request(seed=seed, limit=limit)).ids
    assert len(set(ids)) == len(ids) == limit
    runs = [(clip, list(frames)) for clip, frames in groupby(ids, MOVING.clip)]
    assert len({clip for clip, _ in runs}) == len(runs) == -(-limit // 8)
    assert all(f == [f"{clip}-{t}" for t in range(8)] for clip, f in runs[:-1])
    order = np.random.default_rng([seed, 0]).permutation(250)
    assert [clip for clip, _ in runs] == [f"train-{i:06d}" for i in order[: len(runs)]]


def test_images_alone_are_shuffled_one_by_one():
    scenes = load_dataset("shapes").split("train")
    (ids,) = new_rows(scenes, build_request(seed=3)).ids
    order = np.random.default_rng([3, 0]).permutation(len(scenes.ids))
    assert list(ids) == [scenes.ids[i] for i in order]


def test_rows_of_a_clip_have_its_number():
    values, passes = shapes.computed(frames_manifest(), Frames())
    numbers = values[CLIP].tolist()
    assert numbers == [clip_number(f"train-{i:06d}") for i in (0, 0, 32, 32)]
    assert len(set(numbers)) == 2
    assert values[CLIP].dtype == np.int64
    assert THING not in values
    assert passes == 0


def test_things_keep_their_number_in_all_frames():
    """That of the data set; numbers of the map go by class and place, and differ from frame to frame."""
    m = frames_manifest("instances")
    values, _ = shapes.computed(m, Frames())
    block = Block(m, 0, {**values, "rows/usable": np.ones(4, bool)})
    seen = np.setdiff1d(np.arange(16), MOVING.unseen)
    for row, name in enumerate(Frames.ids):
        numbers, instances = block.item(MAP, row).reshape(64, 64), MOVING.instances(name)
        things = block.item(THING, row)
        assert (
            len(things) == numbers.max() == values[END][row] - (values[END][row - 1] if row else 0)
        )
        for k, thing in enumerate(things, 1):
            assert set(instances[numbers == k].tolist()) == {int(thing)}
        assert (np.isin(MOVING.labels(name), seen) == (numbers > 0)).all()


def test_numbers_of_things_say_nothing_of_other_classes():
    """The k-th of a class has one number, whatever was drawn before it."""
    met: dict[int, set[int]] = {}
    for name in MOVING.ids[::8]:
        labels, instances = MOVING.labels(name), MOVING.instances(name)
        for thing in np.unique(instances[labels < 10]).tolist():
            (label,) = set(labels[(instances == thing) & (labels < 10)].tolist())
            met.setdefault(label, set()).add((thing - 2) // 10)
            assert (thing - 2) % 10 == label
    assert all(min(numbers) == 0 for numbers in met.values())
    assert any(1 in numbers for numbers in met.values())


def test_frames_that_lie_apart_are_found():
    m = frames_manifest()
    one, other = clip_number("a"), clip_number("b")

    def found(*clips, usable=(True,) * 4):
        arrays = {CLIP: np.array(clips), "rows/usable": np.array(usable)}
        return [f.what for f in Clips().inspect(Block(m, 0, arrays))]

    assert found(one, one, other, other) == []
    assert found(one, other, one, other) == ["frames of a clip lie apart"]
    assert found(one, 0, one, other, usable=(True, False, True, True)) == []
    assert found(0, 0, 0, 0, usable=(False,) * 4) == []


def test_data_sets_without_clips_have_no_such_stage():
    for name in ("shapes", "shapes-crowded"):
        assert not Clips().wanted(load_dataset(name).split("train"))
    assert Clips().wanted(MOVING)
    request = build_request(stages=closed(("clips", "labels")))
    assert "clips" not in request.stage_names(load_dataset("shapes").split("train"))
