"""Words of the seen classes: what is stored, and that nothing of an unseen class is among them."""

from __future__ import annotations

import numpy as np
import pytest

from c2s.testing import shapes
from c2s.testing.shapes import scenes, teacher
from c2s_cache import Block, ConfigError
from c2s_pipeline.stages.base import Once
from c2s_pipeline.stages.words import CLASS, EMBEDDINGS, Words
from c2s_pipeline.teachers.text import class_embeddings

SYNONYMS = {
    "circle": ("red circle", "blue circle"),
    "star": ("yellow star",),
    "sand": ("an image",),
}


def manifest(synonyms=SYNONYMS, **text):
    return shapes.manifest_of(("labels", "words"), {"words": {"synonyms": synonyms}, "text": text})


def computed(m):
    (stage,) = [s for s in m.stages if s.name == "words"]
    return Words.recorded(stage).compute_once(Once(m, teacher(), lambda done, total: None))


def test_a_class_has_its_name_and_then_its_synonyms():
    m = manifest()
    found, classes = computed(m), scenes().classes
    seen = [c for c in classes if classes.index(c) not in m.unseen]
    words = [w for c in seen for w in (c, *SYNONYMS.get(c, ()))]
    assert m.axes["word"] == len(words)
    assert [classes[i] for i in found[CLASS]] == [
        c for c in seen for _ in range(1 + len(SYNONYMS.get(c, ())))
    ]
    want = class_embeddings(teacher().text, words, ["a photo of a {}"])
    np.testing.assert_allclose(found[EMBEDDINGS], want, atol=1e-5)


def test_words_stand_in_the_sentences_of_the_class_names():
    found = computed(manifest(templates=["{}", "a {}"]))
    want = class_embeddings(teacher().text, ["circle"], ["{}", "a {}"])
    np.testing.assert_allclose(found[EMBEDDINGS][:1], want, atol=1e-5)


def test_a_prompt_is_the_first_word():
    prompts = [f"red {c}" if c == "circle" else c for c in scenes().classes]
    with pytest.raises(ConfigError, match="'red circle' of the class 'red circle' stands for"):
        computed(manifest(prompts=prompts))
    found = computed(manifest({"circle": ("disc",)}, prompts=prompts))
    want = class_embeddings(teacher().text, ["red circle"], ["a photo of a {}"])
    np.testing.assert_allclose(found[EMBEDDINGS][:1], want, atol=1e-5)


def test_nothing_of_an_unseen_class_is_stored():
    """Whatever its synonyms: the manifest, the fingerprint and every byte are the same."""
    m, other = manifest(), manifest({**SYNONYMS, "star": ("pentagram", "asterisk")})
    without = manifest({c: w for c, w in SYNONYMS.items() if c != "star"})
    assert m == other == without
    assert "star" not in m.stage("words").model_dump_json()
    assert not set(computed(m)[CLASS].tolist()) & set(m.unseen)


@pytest.mark.parametrize(
    ("synonyms", "message"),
    [
        ({"circle": ("Star",)}, "'Star' of the class 'circle' stands for the class 'star' already"),
        ({"circle": ("disc",), "ring": ("disc",)}, "'disc' of the class 'ring' stands for"),
        ({"circle": ("disc", "disc")}, "'disc' of the class 'circle' stands for"),
        ({"disc": ("circle",)}, "shapes has no class 'disc'"),
    ],
)
def test_a_word_stands_for_one_class(synonyms, message):
    """Else one of an unseen class could be learnt as another's."""
    with pytest.raises(ConfigError, match=message):
        manifest(synonyms)


def test_a_word_of_an_unseen_class_is_found():
    m = manifest()
    found = dict(computed(m))
    block = Block(m, 0, {**found, "rows/usable": np.ones(4, bool)})
    assert list(Words().inspect(block)) == []
    found[CLASS] = np.where(found[CLASS] == 0, m.unseen[0], found[CLASS])
    (finding,) = Words().inspect(Block(m, 0, {**found, "rows/usable": np.ones(4, bool)}))
    assert finding.check == "leakage"
    found[EMBEDDINGS] = 2 * found[EMBEDDINGS]
    checks = {
        f.check for f in Words().inspect(Block(m, 0, found | {"rows/usable": np.ones(4, bool)}))
    }
    assert checks == {"leakage", "values"}


def test_a_cache_without_label_maps_has_no_words():
    with pytest.raises(ConfigError, match="no class is seen whose words it could hold"):
        shapes.manifest_of(("words",))
