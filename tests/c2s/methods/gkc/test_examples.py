"""What a view shows of the segments of its image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from c2s.methods.examples import BOX, FLIP, cut_view
from c2s.methods.gkc import GKCConfig
from c2s.methods.gkc.examples import LATENT, NONE
from c2s.testing import shapes
from c2s_cache.pseudo_mask import pseudo_mask
from c2s_pipeline.stages.registry import closed

ALL = ("labels", "instances", "segments", "masks", "regions", "text", "words")


def example(cache, row=0, box=None, flip=False, **settings):
    examples = GKCConfig(**settings).examples(cache.manifest)
    sample = cache.read_block(0, examples.paths).sample(row)
    if box is not None:
        drawn = {BOX: np.array(box, float), FLIP: np.array(flip)}
        sample = replace(sample, arrays={**sample.arrays, **drawn})
    view = cut_view(sample, 64)
    return examples, view, examples.example(view, sample.arrays)


@pytest.fixture(scope="module")
def by_class():
    return shapes.shapes_cache(closed(("segments", "views", "masks", "regions", "text", "words")))


@pytest.fixture(scope="module")
def by_thing():
    return shapes.shapes_cache(closed(ALL))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("box", [(0, 0, 64, 64), (10, 20, 40, 50), (-30, -30, 34, 34)])
def test_segments_are_where_the_view_shows_them(by_class, by_thing, box, flip):
    for cache in (by_class, by_thing):
        stored = cache.read_block(0, {"segments/class", "segments/cls", "segments/id"})
        for row in range(shapes.ROWS):
            _, view, found = example(cache, row, box, flip, teacher_token="global")
            labels = view.crop.labels
            assert ((found.segments == NONE) == (labels == 255)).all()
            assert len(found.classes) == len(found.tokens) == found.segments.max() + 1
            for number, class_id in enumerate(found.classes):
                assert set(labels[found.segments == number].tolist()) == {int(class_id)}
            kept = {t.tobytes() for t in found.tokens}
            assert kept <= {t.tobytes() for t in stored.sample(row)["segments/cls"]}


def test_a_view_of_nothing_has_no_segment(by_class):
    examples, _, found = example(by_class, 0, (100, 100, 164, 164))
    assert len(found.classes) == 0
    assert (found.segments == NONE).all()
    both = examples.collate([found, example(by_class)[2]])
    assert both.classes[0].tolist() == [NONE] * both.classes.shape[1]
    assert both.tokens[0].abs().sum() == 0


def test_tokens_of_regions_are_those_of_the_seen_classes(by_class):
    n = by_class.manifest.num_classes
    stored = by_class.read_block(0, {"regions/cls", "regions/id"})
    for row in range(shapes.ROWS):
        _, view, found = example(by_class, row, tokens="regions", teacher_token="global")
        ids = stored.sample(row)["regions/id"]
        assert found.classes.tolist() == ids[ids < n].tolist()
        np.testing.assert_array_equal(found.tokens, stored.sample(row)["regions/cls"][ids < n])
        for number, class_id in enumerate(found.classes):
            assert ((found.segments == number) == (view.crop.labels == class_id)).all()


def test_latent_regions_are_segments_without_a_class(by_class):
    n = by_class.manifest.num_classes
    stored = by_class.read_block(0, {"regions/cls", "regions/id", "masks/grid"})
    met = 0
    for row in range(shapes.ROWS):
        _, view, found = example(by_class, row, latent="regions", teacher_token="global")
        sample = stored.sample(row)
        pseudo = pseudo_mask(view.crop.labels, sample["masks/grid"], n, view.crop.inside)
        ids = sample["regions/id"]
        latent = ids[ids >= n]
        assert (found.classes == LATENT).sum() == len(latent)
        for number, region in zip(np.flatnonzero(found.classes == LATENT), latent, strict=True):
            assert ((found.segments == number) == (pseudo == region)).all()
            token = sample["regions/cls"][ids == region][0]
            np.testing.assert_array_equal(found.tokens[number], token)
        plain = example(by_class, row, teacher_token="global")[2]
        known = np.flatnonzero(found.classes != LATENT)
        np.testing.assert_array_equal(found.classes[known], plain.classes)
        met += len(latent)
    assert met > 0


def test_captions_are_read_where_they_have_a_weight(by_thing):
    cache = shapes.shapes_cache(closed(("labels", "segments", "views", "captions")))
    stored = cache.read_block(0, {"captions/word"})
    made = [
        example(cache, row, weights={"grounding": 1.0}, box=box)
        for row, box in enumerate([(0, 0, 64, 64), (0, 0, 20, 20), (100, 100, 164, 164)])
    ]
    examples = made[0][0]
    together = examples.collate([found for _, _, found in made]).captions
    assert together.dtype == torch.int64
    for row, captions in enumerate(together.tolist()):
        flat = [n for words in captions for n in (*(n for n in words if n != NONE), NONE)]
        assert flat == stored.sample(row)["captions/word"].tolist()
    nothing = replace(made[0][2], captions=[])
    assert examples.collate([nothing, nothing]).captions.tolist() == [[[NONE]]] * 2
    several = replace(made[0][2], captions=[np.array([3, 4, 5]), np.array([6])])
    found = examples.collate([several, nothing]).captions.tolist()
    assert found == [[[3, 4, 5], [6, NONE, NONE]], [[NONE] * 3] * 2]
    plain, _, found = example(by_thing)
    assert plain.collate([found]).captions is None


def test_nothing_of_a_view_is_read_without_regions(by_thing):
    plain = GKCConfig().examples(by_thing.manifest)
    assert not plain.teacher_paths
    owners = {by_thing.manifest.owners[p] for p in plain.paths}
    assert owners == {"images", "labels", "instances", "segments", "views"}
    latent = GKCConfig(latent="regions").examples(by_thing.manifest)
    assert latent.teacher_paths == {"regions/cls", "regions/id", "masks/grid"}
