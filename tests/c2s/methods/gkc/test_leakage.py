"""Nothing of an unseen class reaches an inductive training: neither its pixels, nor its name, nor its synonyms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from moving_frames import Frames

from c2s.methods.base import Facts
from c2s.methods.examples import cut_view
from c2s.methods.gkc import GKCConfig
from c2s.students import create
from c2s.students.base import normalize_images
from c2s.testing import shapes
from c2s_pipeline.build.request import build_request, make_manifest
from c2s_pipeline.build.rows import part_of
from c2s_pipeline.stages.registry import closed

SYNONYMS = {"circle": ["red circle"], "sand": ["an image of sand"], "star": ["red star"]}


NOUNS = ("drawing", "photo")


class Changed:
    """Scenes whose unseen classes have other names, in their captions too, and have changed places."""

    def __init__(self, source, names):
        self._source, self._names = source, names
        self.classes = tuple(names.get(c, c) for c in source.classes)
        self.synonyms = {names.get(c, c): words for c, words in source.synonyms.items()}

    def __getattr__(self, name):
        return getattr(self._source, name)

    def labels(self, image_id):
        table = np.arange(256, dtype=np.uint8)
        table[list(self._source.unseen)] = np.roll(self._source.unseen, 1)
        return table[self._source.labels(image_id)]

    def captions(self, image_id):
        found = self._source.captions(image_id)
        return tuple(" ".join(self._names.get(w, w) for w in c.split()) for c in found)


def losses(source, words, nouns, **settings):
    config = GKCConfig(points=0, **settings)
    asked = {**shapes.SETTINGS, "words": {"synonyms": words, "nouns": (*NOUNS, *nouns)}}
    clips = ("clips",) if config.frames > 1 else ()
    names = closed((*config.read_stages(), "instances", "captions", *clips))
    request = build_request(**asked, stages=names)
    ids = list(source.ids)[: shapes.ROWS]
    manifest = make_manifest(source, request, [part_of(source, ids)], shapes.teacher().info())
    cache = shapes.written(manifest, shapes.computed(manifest, source)[0])
    torch.manual_seed(0)
    student = create("mask2former:shapes", manifest.teacher.dim).train()
    method = config.build(Facts.of(cache, student))
    examples = config.examples(manifest)
    block = cache.read_block(0, examples.paths)
    made = [
        examples.example(cut_view(block.sample(i), 64), block.sample(i).arrays)
        for i in range(len(block))
    ]
    batch = examples.collate(made)
    torch.manual_seed(1)
    return method(student, normalize_images(batch.image, student), batch), cache


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "latent", "frames"),
    [("random", "none", 1), ("maximum", "classes", 1), ("random", "none", 2)],
)
def test_unseen_names_changed_at_the_source_change_no_loss(how, latent, frames):
    source = shapes.scenes() if frames == 1 else Frames()
    unseen = [source.classes[i] for i in source.unseen]
    other = {
        name: f"an image of a {colour}"
        for name, colour in zip(unseen, ("red", "blue", "pink", "white"), strict=True)
    }
    changed = {k: v for k, v in SYNONYMS.items() if k not in unseen}
    changed[other["star"]] = ["a picture of yellow"]
    settings = {"synonyms": {"how": how}, "latent": latent, "weights": {"grounding": 2.0}}
    settings["frames"] = frames
    want, before = losses(source, SYNONYMS, ("star", "pentagram"), **settings)
    nouns = (other["star"], "a picture of yellow")
    found, after = losses(Changed(source, other), changed, nouns, **settings)
    assert want.keys() == found.keys()
    assert float(want["grounding"].detach()) > 0
    stored = [cache.read(0, ["captions/word"])["captions/word"] for cache in (before, after)]
    np.testing.assert_array_equal(*stored)
    seen_words = len(before.once("words/class")) - len(NOUNS)
    assert {seen_words, seen_words + 1} & set(stored[0].tolist())  # nouns that are no class
    for name, value in want.items():
        assert torch.equal(value, found[name]), name
    differ = before.once("text/embeddings") != after.once("text/embeddings")
    assert set(np.flatnonzero(differ.any(1)).tolist()) == set(source.unseen)
