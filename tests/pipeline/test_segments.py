"""Tokens of annotated segments: what a segment is, what the teacher is shown of it, and where its tokens come from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from c2s.testing import shapes
from c2s.testing.shapes import ROWS, scenes, teacher
from c2s_cache import Block, ConfigError
from c2s_pipeline.stages.instances import Instances, numbered
from c2s_pipeline.stages.segments import (
    BOX,
    CLASS,
    CLS,
    END,
    ID,
    SPATIAL,
    Segment,
    Segments,
    SegmentSettings,
    by_class,
    by_instance,
    painted,
    pool,
)


def manifest(stages=("segments",), **settings):
    return shapes.manifest_of(("images", "labels", *stages), {"segments": settings})


def values(stages=("segments",), source=None, **settings):
    found, _ = shapes.computed(manifest(stages, **settings), source or scenes())
    return found


@given(st.integers(0, 2**32 - 1))
def test_segments_are_pixels_of_one_thing_and_one_class(seed):
    rng = np.random.default_rng(seed)
    instances = rng.integers(0, 4, (9, 11))
    labels = rng.choice(np.array([0, 3, 255], np.uint8), (9, 11))
    found = numbered(instances, labels)
    pairs = {}
    for y in range(9):
        for x in range(11):
            if instances[y, x] == 0 or labels[y, x] == 255:
                assert found[y, x] == 0
            else:
                pairs.setdefault((labels[y, x], instances[y, x]), set()).add(int(found[y, x]))
    assert all(len(numbers) == 1 for numbers in pairs.values())
    numbers = [n for each in pairs.values() for n in each]
    assert sorted(numbers) == list(range(1, len(pairs) + 1))
    ordered = sorted(pairs, key=lambda pair: min(pairs[pair]))
    assert [c for c, _ in ordered] == sorted(c for c, _ in pairs)


def test_numbers_of_things_say_nothing_of_those_that_are_hidden():
    instances = np.array([[1, 2, 3, 4]])
    labels = np.array([[7, 255, 7, 255]], np.uint8)
    other = np.array([[1, 9, 3, 3]])
    assert numbered(instances, labels).tolist() == [[1, 0, 2, 0]]
    np.testing.assert_array_equal(numbered(other, labels), numbered(instances, labels))


def test_of_many_things_the_largest_are_kept():
    instances = np.repeat(np.arange(1, 301), 2)[None]
    instances[0, :40] = 7
    labels = np.zeros_like(instances, np.uint8)
    found = numbered(instances, labels)
    assert set(np.unique(found)) == set(range(255))
    assert found[0, 3] == 1


def test_units():
    labels = np.array([[0, 0, 5], [0, 255, 5]], np.uint8)
    numbers = np.array([[1, 2, 3], [1, 0, 3]], np.uint8)
    found = by_class(labels, 1)
    assert [(s.id, s.class_id, int(s.mask.sum()), s.box) for s in found] == [
        (0, 0, 3, (0, 0, 2, 2)),
        (5, 5, 2, (2, 0, 3, 2)),
    ]
    found = by_instance(numbers, labels, 1)
    assert [(s.id, s.class_id, s.box) for s in found] == [
        (1, 0, (0, 0, 1, 2)),
        (2, 0, (1, 0, 2, 1)),
        (3, 5, (2, 0, 3, 2)),
    ]
    assert [s.id for s in by_instance(numbers, labels, 2)] == [1, 3]


def test_what_lies_outside_is_painted():
    image = np.random.default_rng(0).integers(0, 256, (2, 3, 3), dtype=np.uint8)
    segment = Segment(0, 0, np.array([[1, 0, 0], [0, 0, 1]], bool))
    for fill, colour in {"grey": [128] * 3, "zero": [0] * 3, "mean": [9, 8, 7]}.items():
        found = painted(image, segment, SegmentSettings(fill=fill), (9, 8, 7))
        for y in range(2):
            for x in range(3):
                want = image[y, x].tolist() if segment.mask[y, x] else colour
                assert found[y, x].tolist() == want
    assert painted(image, segment, SegmentSettings(fill="none"), (9, 8, 7)) is image


@given(st.integers(0, 2**32 - 1))
def test_a_token_weighs_as_much_as_its_cell_is_covered(seed):
    """Against a mask brought to so many pixels that every cell holds whole ones."""
    rng = np.random.default_rng(seed)
    height, width, rows, cols = rng.integers(1, 8, 4).tolist()
    mask = rng.random((height, width)) < 0.5
    mask[rng.integers(height), rng.integers(width)] = True
    x0, y0, x1, y1 = place = Segment(0, 0, mask).box
    tokens = rng.normal(size=(rows, cols, 5)).astype(np.float32)
    fine = np.kron(mask[y0:y1, x0:x1], np.ones((rows, cols)))
    deep, wide = y1 - y0, x1 - x0
    total, weight = np.zeros(5), 0.0
    for r in range(rows):
        for c in range(cols):
            share = fine[r * deep : (r + 1) * deep, c * wide : (c + 1) * wide].mean()
            total, weight = total + share * tokens[r, c], weight + share
    np.testing.assert_allclose(pool(tokens, mask, place), total / weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrong", [{"min_pixels": 0}, {"fill": "white"}, {"cap": 200}])
def test_settings_that_say_nothing_are_refused(wrong):
    with pytest.raises(ValidationError):
        SegmentSettings(**wrong)


def test_a_setting_without_effect_is_refused():
    with pytest.raises(
        ConfigError, match=r"segments\.pool has no effect: segments\.spatial is off"
    ):
        manifest(spatial=False, pool="all")


def test_units_of_classes_do_not_depend_on_instances():
    stages = ("instances", "segments")
    assert manifest(stages).stage("segments").upstream == ("labels", "instances")
    assert manifest(stages, units="classes").stage("segments").upstream == ("labels",)
    assert manifest().stage("segments").upstream == ("labels",)


def block_of(found, m):
    paths = m.stage("segments").arrays
    return Block(m, 0, {**{p: found[p] for p in paths}, "rows/usable": found["rows/usable"]})


@pytest.mark.parametrize("fill", ["grey", "zero"])
@pytest.mark.parametrize("masking", ["box", "frame"])
def test_tokens_are_those_of_the_crop(fill, masking):
    """Of the paper's crop, cut by hand, through the teacher itself; to float16."""
    m = manifest(fill=fill, masking=masking, pool="all")
    block, side = block_of(values(fill=fill, masking=masking, pool="all"), m), m.teacher.image_size
    for row in range(ROWS):
        ids = block.item(ID, row).tolist()
        picture, labels = scenes()[row].read()
        labels[np.isin(labels, m.unseen)] = 255
        assert (
            ids == sorted(set(labels.ravel().tolist()) - {255}) == block.item(CLASS, row).tolist()
        )
        for at, class_id in enumerate(ids):
            mask = labels == class_id
            ys, xs = np.nonzero(mask)
            box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            assert block.item(BOX, row)[at].tolist() == list(box)
            shown = np.where(mask[..., None], picture, {"grey": 128, "zero": 0}[fill])
            crop = Image.fromarray(shown.astype(np.uint8))
            crop = crop.crop(box) if masking == "box" else crop
            pixels = np.asarray(crop.resize((side, side), Image.Resampling.BICUBIC))[None]
            cls, tokens = teacher().dense(pixels)
            for path, want in ((CLS, cls[0]), (SPATIAL, tokens[0].mean((0, 1)))):
                found = torch.from_numpy(block.item(path, row)[at].astype(np.float32))
                assert torch.cosine_similarity(found, want, dim=0) > 0.9999, (path, row, class_id)


def test_tokens_hold_for_every_view():
    """Views are nothing to segments: with other views every byte is the same."""
    found = []
    for count in (1, 3):
        m = shapes.manifest_of(("labels", "views", "segments"), {"views": {"count": count}})
        found.append((m, shapes.computed(m, scenes())[0]))
    (one, first), (many, second) = found
    assert one.fingerprints["segments"] == many.fingerprints["segments"]
    assert one.fingerprints["views"] != many.fingerprints["views"]
    for path in one.stage("segments").arrays:
        np.testing.assert_array_equal(first[path], second[path])


class Repainted:
    """Scenes in which one class is nowhere annotated."""

    def __init__(self, hidden):
        self.hidden = hidden

    def __getattr__(self, name):
        return getattr(scenes(), name)

    def labels(self, image_id):
        labels = scenes().labels(image_id)
        labels[labels == self.hidden] = 255
        return labels


def test_a_segment_is_independent_of_the_others():
    m = manifest()
    whole = block_of(values(), m)
    hidden = int(whole.item(CLASS, 0)[0])
    without = block_of(values(source=Repainted(hidden)), m)
    for row in range(ROWS):
        kept = whole.item(CLASS, row) != hidden
        np.testing.assert_array_equal(whole.item(ID, row)[kept], without.item(ID, row))
        np.testing.assert_allclose(
            whole.item(CLS, row)[kept], without.item(CLS, row), rtol=0, atol=2e-3
        )


def test_things_of_one_class_are_told_apart():
    stages = ("instances", "segments")
    m = manifest(stages)
    found = values(stages)
    by_thing, by_kind = np.diff(found[END], prepend=0), np.diff(values()[END], prepend=0)
    assert (by_thing >= by_kind).all()
    numbers = Block(m, 0, found).item("instances/map", 0).reshape(64, 64)
    labels = scenes()[0].read()[1]
    for number, class_id in zip(
        block_of(found, m).item(ID, 0), block_of(found, m).item(CLASS, 0), strict=True
    ):
        assert set(labels[numbers == number].tolist()) == {int(class_id)}


def findings(m, found, stage):
    return list(stage.inspect(Block(m, 0, found)))


def test_a_segment_of_an_unseen_class_is_found():
    m, found = manifest(), values()
    assert findings(m, found, Segments()) == []
    leaked = {**found, CLASS: found[CLASS].copy()}
    leaked[CLASS][0] = m.unseen[0]
    (finding,) = findings(m, leaked, Segments())
    assert (finding.check, finding.where) == ("leakage", "row 0")
    broken = {**found, SPATIAL: np.full_like(found[SPATIAL], np.nan)}
    assert {f.check for f in findings(m, broken, Segments())} == {"values"}


def test_numbers_that_are_left_out_are_found():
    m, found = manifest(("instances",)), values(("instances",))
    assert findings(m, found, Instances()) == []
    flat = found["instances/map"].copy()
    flat[flat == 1] = 0
    (finding, *_) = findings(m, {**found, "instances/map": flat}, Instances())
    assert finding.check == "leakage"
