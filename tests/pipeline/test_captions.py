"""Words of captions: what is stored, and that nothing of an unseen class is."""

from __future__ import annotations

import numpy as np
import pytest

from c2s.testing import shapes
from c2s_cache import Block, ConfigError
from c2s_pipeline.build.request import build_request, make_manifest
from c2s_pipeline.build.rows import part_of
from c2s_pipeline.stages.captions import CLOSED, END, WORD, Captions
from c2s_pipeline.stages.registry import closed
from c2s_pipeline.stages.words import CLASS, EMBEDDINGS, NOUN, Words, listed

STAGES = ("labels", "captions")
USABLE = {"rows/usable": np.ones(shapes.ROWS, bool)}


class Captioned:
    """Scenes with other captions."""

    def __init__(self, *captions):
        self._captions = captions

    def __getattr__(self, name):
        return getattr(shapes.scenes(), name)

    def captions(self, image_id):
        return self._captions if image_id == shapes.scenes().ids[1] else ()


def manifest(stages=STAGES, **words):
    return shapes.manifest_of(stages, {"words": words} if words else {})


def of_row(m, values, row=1):
    """The captions of a row, in words."""
    found = Block(m, 0, {**USABLE, **values}).item(WORD, row)
    parts = " ".join("|" if n == CLOSED else listed(m)[n][1] for n in found).split("|")
    assert parts[-1] == ""
    return [part.split() for part in parts[:-1]]


def test_words_of_seen_classes_and_nouns_are_found():
    """In every caption; one that has none is left out, and so is all that names an unseen class."""
    m = manifest(nouns=("frame", "edge"))
    source = Captioned(
        "Two red circles in a frame of frames", "a star on bricks", "waves and stars at the edges"
    )
    values, _ = shapes.computed(m, source)
    assert of_row(m, values) == [["circle", "frame"], ["waves", "edge"]]
    assert of_row(m, values, 0) == []
    assert values[END].tolist() == [0, 6, 6, 6]


def test_a_name_of_an_unseen_class_hides_the_words_in_it():
    """ "star" is unseen: there is no "sand" in "star sand", if that were its name."""
    prompts = ["star sand" if c == "star" else c for c in shapes.scenes().classes]
    m = shapes.manifest_of(STAGES, {"text": {"prompts": prompts}})
    values, _ = shapes.computed(m, Captioned("a circle on star sand", "a star on sand"))
    assert of_row(m, values) == [["circle"], ["sand"]]


def test_nouns_stand_behind_the_words_of_the_classes():
    m, without = manifest(nouns=("frame", "edge")), manifest()
    assert [w for c, w in listed(m) if c == NOUN] == ["frame", "edge"]
    values, few = (shapes.computed(of, shapes.scenes())[0] for of in (m, without))
    assert values[CLASS].tolist() == [*few[CLASS].tolist(), NOUN, NOUN]
    np.testing.assert_allclose(values[EMBEDDINGS][:-2], few[EMBEDDINGS], atol=1e-6)
    assert list(Words().inspect(Block(m, 0, {**values, **USABLE}))) == []


def test_without_nouns_words_are_what_they_are_without_captions():
    names = ("labels", "words")
    assert manifest().stage("words") == manifest(names).stage("words")
    assert manifest().fingerprints["words"] == manifest(names).fingerprints["words"]


@pytest.mark.parametrize("noun", ["star", "Stars", "yellow star", "hoop", "brick", "star-fish"])
def test_a_noun_that_names_an_unseen_class_is_passed_over(noun):
    """Its name or a synonym of it, in either number, alone or with other words."""
    m = manifest(nouns=("frame", noun, "edge"))
    assert m == manifest(nouns=("frame", "edge"))
    assert m.stage("words").settings["nouns"] == ["frame", "edge"]


def test_synonyms_that_are_given_count_too():
    """Beside those that are shipped, where a class is unseen."""
    asked = {"star": ("asterisk",), "circle": ("disc",)}
    m = manifest(synonyms=asked, nouns=("asterisks", "disc", "starfish", "hoop", "block"))
    assert m.stage("words").settings["nouns"] == ["block"]  # no longer a word of the square
    assert "asterisk" not in m.stage("words").model_dump_json()


def test_what_stands_for_a_class_in_sentences_counts_whether_or_not_it_is_prompted():
    source = Captioned()
    source.prompts = tuple("sparkle" if c == "star" else c for c in source.classes)
    asked = {**shapes.SETTINGS, "words": {"nouns": ("sparkles", "frame")}}
    request = build_request(**asked, stages=closed(STAGES))
    parts = [part_of(source, source.ids[: shapes.ROWS])]
    m = make_manifest(source, request, parts, shapes.teacher().info())
    assert m.stage("words").settings["nouns"] == ["frame"]


def test_a_noun_is_there_once():
    m = manifest(nouns=("frame", "frames", "circles", "!", "Frame"))
    assert m.stage("words").settings["nouns"] == ["frame"]


def test_a_noun_with_an_unseen_class_in_its_prompt_is_refused():
    prompts = [f"yellow {c}" if c == "star" else c for c in shapes.scenes().classes]
    prompts[shapes.scenes().classes.index("ring")] = "frame"
    settings = {"text": {"prompts": prompts}, "words": {"nouns": ("frame",)}}
    m = shapes.manifest_of(STAGES, settings)
    with pytest.raises(ConfigError, match="'frame' names an unseen class in the prompts"):
        shapes.computed(m, shapes.scenes())


def test_nouns_without_captions_are_refused():
    with pytest.raises(ConfigError, match=r"words\.nouns has no effect: the cache has no stage"):
        manifest(("labels", "words"), nouns=("frame",))


def test_what_is_wrong_is_found():
    m = manifest(nouns=("frame",))
    values, _ = shapes.computed(m, shapes.scenes())

    def findings(stage, m=m, **other):
        changed = {f"{stage.name}/{key}": value for key, value in other.items()}
        block = Block(m, 0, {**values, **changed, **USABLE})
        return [(f.check, f.where) for f in stage.inspect(block)]

    words = values[WORD]
    assert findings(Captions()) == findings(Words()) == []
    assert findings(Captions(), word=np.where(np.arange(len(words)) == 0, 99, words)) == [
        ("values", "row 0")
    ]
    assert findings(Captions(), word=np.maximum(words, 0)) == [
        ("values", f"row {row}") for row in range(shapes.ROWS)
    ]
    classes = values[CLASS]
    assert findings(Words(), **{"class": np.where(classes == NOUN, m.unseen[0], classes)}) == [
        ("leakage", CLASS)
    ]
    leaking = manifest(nouns=("frame",)).model_dump()
    (stage,) = [s for s in leaking["stages"] if s["name"] == "words"]
    stage["settings"]["nouns"] = ["red stars"]
    assert findings(Words(), type(m).model_validate(leaking)) == [("leakage", CLASS)]


def test_its_receipt_counts_what_was_found():
    stage = Captions()
    assert stage.receipt([]) == {"captions": 0, "kept": 0, "words": 0}
    assert stage.receipt([(2, 1, 3), (3, 3, 5)]) == {"captions": 5, "kept": 4, "words": 8}
