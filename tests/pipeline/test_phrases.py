"""Which phrases a sentence has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from c2s_pipeline.phrases import Phrases, forms, spelt

LIST = ("dog", "hot dog", "wine glass", "child", "fireman", "knife", "t-shirt", "baby", "tomato")
WORDS = st.lists(
    st.sampled_from(["a", "hot", "dog", "dogs", "wine", "glass", "glasses", "child", "in"]),
    max_size=9,
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A dog, two DOGS and the dog's ball", ["dog"]),
        ("a hot dog beside a dog", ["hot dog", "dog"]),
        ("two hot-dogs", ["hot dog"]),
        ("wine glasses", ["wine glass"]),
        ("red wine in a glass", []),
        ("firemen with knives watch children", ["fireman", "knife", "child"]),
        ("T-shirts of babies", ["t-shirt", "baby"]),
        ("tomatoes", ["tomato"]),
        ("hotdog doggy", []),
        ("", []),
    ],
)
def test_they_are_found_whole_in_either_number(text, found):
    phrases = Phrases((phrase, number) for number, phrase in enumerate(LIST))
    assert [LIST[n] for n in phrases.found(text)] == found


@given(WORDS)
def test_against_a_search_at_every_place(words):
    """The longest first, from left to right, by the written-out forms."""
    table = {
        ("hot", "dog"): 1, ("hot", "dogs"): 1, ("dog",): 0, ("dogs",): 0,
        ("wine", "glass"): 2, ("wine", "glasses"): 2, ("child",): 3, ("children",): 3,
    }  # fmt: skip
    want, at = [], 0
    while at < len(words):
        for size in (2, 1):
            key = tuple(words[at : at + size])
            if len(key) == size and key in table:
                want += [] if table[key] in want else [table[key]]
                at += size
                break
        else:
            at += 1
    phrases = Phrases((phrase, number) for number, phrase in enumerate(LIST[:4]))
    assert phrases.found(" ".join(words)) == want


def test_of_phrases_that_are_spelt_alike_the_first_counts():
    assert Phrases([("Hot-Dog", 5), ("hot dogs", 6)]).found("hot dogs") == [5]


def test_a_phrase_without_letters_is_in_no_sentence():
    assert forms("!?") == frozenset()
    assert Phrases([("!?", 0)]).found("what!? !?") == []
    assert spelt("Ärger_2") == ("ärger", "2")


@pytest.mark.parametrize("phrase", ["bus", "double decker bus", "buses", "bus stop"])
def test_a_phrase_within_another_is_found(phrase):
    assert Phrases([("bus", 0)]).within(phrase)
    assert Phrases([("buses", 0)]).within("bus")
    assert not Phrases([("bus", 0)]).within("bush")
