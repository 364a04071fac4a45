"""The renderer: deterministic, fully labelled, honest captions, shapes where they should be."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from c2s.shapes import scenes
from c2s.shapes.scenes import (
    CLASSES,
    COLOURS,
    MIN_AREA,
    SEEN,
    SIZE,
    SPLITS,
    STUFF,
    THINGS,
    UNSEEN,
    render,
)
from c2s.shapes.words import CLASS_OF, GENERAL, SYNONYMS, TIED

indices = st.integers(0, 50_000)
splits = st.sampled_from(SPLITS)


def test_classes() -> None:
    assert len(CLASSES) == len(set(CLASSES)) == 16
    assert set(UNSEEN) < set(CLASSES)
    assert set(SEEN) | set(UNSEEN) == set(CLASSES)
    assert sum(name in THINGS for name in UNSEEN) == sum(name in STUFF for name in UNSEEN) == 2


@settings(max_examples=25, deadline=None)
@given(splits, indices)
def test_a_scene_depends_on_nothing_but_split_and_index(split: str, index: int) -> None:
    first = render(split, index)
    render("train", index + 1)
    again = render(split, index)
    assert first.image.dtype == first.labels.dtype == np.uint8
    assert first.image.shape == (SIZE, SIZE, 3)
    assert first.labels.shape == (SIZE, SIZE)
    assert first.labels.max() < len(CLASSES)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert first.caption == again.caption


def test_splits_are_different_worlds() -> None:
    images = [render(split, i).image.tobytes() for split in SPLITS for i in range(20)]
    assert len(set(images)) == len(images)


@settings(max_examples=60, deadline=None)
@given(splits, indices)
def test_caption_names_only_what_is_visible(split: str, index: int) -> None:
    scene = render(split, index)
    visible = {
        CLASSES[c] for c in range(len(CLASSES)) if (scene.labels == c).sum() >= MIN_AREA * SIZE**2
    }
    assert set(scene.colours) == visible
    words = scene.caption.split()
    named = set(words) & set(CLASSES)
    assert named
    assert named <= visible
    for before, word in pairwise(words):
        if before in COLOURS:
            assert scene.colours[word] == before


@settings(max_examples=40, deadline=None)
@given(splits, indices)
def test_seen_only_scenes_show_no_unseen_class(split: str, index: int) -> None:
    scene = render(split, index, SEEN)
    found = {CLASSES[c] for c in np.unique(scene.labels)}
    assert found <= set(SEEN)
    assert not set(scene.caption.split()) & set(UNSEEN)


@pytest.mark.slow
def test_unseen_classes_are_as_common_as_others() -> None:
    present = np.zeros(len(CLASSES))
    for index in range(600):
        present[np.unique(render("train", index).labels)] += 1
    for group in (THINGS, STUFF):
        seen = np.mean([present[CLASSES.index(n)] for n in group if n not in UNSEEN])
        unseen = np.mean([present[CLASSES.index(n)] for n in group if n in UNSEEN])
        assert 0.8 < unseen / seen < 1.25


def test_close_ups() -> None:
    zooms = {
        split: [scenes._zoom(np.random.default_rng(i), split) for i in range(400)]
        for split in SPLITS
    }
    assert {zoom for split in ("train", "val", "dev") for zoom in zooms[split]} == {1.0}
    for split, most in (("web", 2.2), ("close", 4.2)):
        closer = [zoom for zoom in zooms[split] if zoom > 1]
        assert 150 < len(closer) < 250
        assert 0.9 * most < max(closer) < most
    plain, close = render("dev", 3), render("dev", 3, zoom=4.0)
    np.testing.assert_array_equal(render("dev", 3, zoom=1.0).image, plain.image)
    pixels = [np.isin(labels, range(len(THINGS))).sum() for labels in (plain.labels, close.labels)]
    assert pixels[1] > 3 * pixels[0]


def test_every_class_has_its_own_words() -> None:
    every = [*CLASSES, *COLOURS, *SYNONYMS]
    assert len(set(every)) == len(every) == 16 + 10 + 42
    for words in (GENERAL, scenes.RENAMED):
        assert [CLASS_OF[word] for word in words] == list(range(len(CLASSES)))
    assert [CLASS_OF[word] for word in TIED] == list(range(len(THINGS)))
    assert {colour for fitting in TIED.values() for colour in fitting} <= set(COLOURS)


def test_the_world_has_not_changed_under_the_shipped_teacher() -> None:
    """Means of fixed scenes; tolerances allow for the last bit of sin and cos elsewhere."""
    facts = [
        ("web", 0, 165.9, "a white circle on bricks"),
        ("train", 1, 139.87, "a photo of a star and a bolt on waves and dots"),
        ("val", 2, 127.16, "a photo of a cross and a square and a crescent on dots"),
    ]
    for split, index, mean, caption in facts:
        scene = render(split, index)
        assert scene.caption == caption
        assert scene.image.mean() == pytest.approx(mean, abs=0.1)


def _inside_by_winding(x: float, y: float, corners: list[tuple[float, float]]) -> bool:
    """Reference: the corners' angles as seen from the point sum to a full turn inside."""
    total = 0.0
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        a, b = complex(ax - x, ay - y), complex(bx - x, by - y)
        total += float(np.angle(b / a))
    return abs(total) > np.pi


@settings(max_examples=100, deadline=None)
@given(st.floats(-1.3, 1.3), st.floats(-1.3, 1.3), st.integers(3, 7), st.floats(0.3, 0.9))
def test_polygon_distance(x: float, y: float, points: int, inner: float) -> None:
    corners = scenes._star_corners(points, inner)
    got = float(scenes._polygon(*corners)(np.array(x), np.array(y)))
    nearest = min(
        abs(complex(ax + t * (bx - ax) - x, ay + t * (by - ay) - y))
        for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True)
        for t in np.linspace(0, 1, 201)
    )
    assert abs(got) == pytest.approx(nearest, abs=6e-3)
    if nearest > 1e-3:
        assert (got < 0) == _inside_by_winding(x, y, corners)


def test_every_thing_fills_its_circle_and_stays_inside_it() -> None:
    axis = np.linspace(-1.5, 1.5, 301)
    x, y = np.meshgrid(axis, axis)
    for name, distance in scenes._THING_DISTANCE.items():
        inside = distance(x, y) < 0
        assert (np.hypot(x, y)[inside] < 1.15).all(), name
        assert 0.2 < inside.sum() * 0.01**2 < np.pi, name


@pytest.mark.parametrize(
    ("split", "index", "classes"),
    [("test", 0, CLASSES), ("val", -1, CLASSES), ("val", 0, THINGS), ("val", 0, ("dots",))],
)
def test_impossible_scenes_are_refused(split: str, index: int, classes: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"scene"):
        render(split, index, classes)
