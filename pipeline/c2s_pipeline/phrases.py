"""Invariant: which phrases of a list a sentence has follows from the two alone, without a grammar, model or data."""

from __future__ import annotations

import re
from collections.abc import Iterable

Spelt = tuple[str, ...]
IRREGULAR = {
    **{"person": "people", "child": "children", "foot": "feet", "tooth": "teeth"},
    **{"goose": "geese", "mouse": "mice", "ox": "oxen"},
}


def spelt(text: str) -> Spelt:
    """Its runs of letters and digits in lower case: "A hot-dog's" -> a, hot, dog, s."""
    return tuple(re.findall(r"[^\W_]+", text.casefold()))


def forms(phrase: str) -> frozenset[Spelt]:
    """A phrase as sentences may have it: as it is, and with its last word in the plural; none without letters."""
    words = spelt(phrase)
    return frozenset((*words[:-1], last) for word in words[-1:] for last in (word, *_plurals(word)))


def _plurals(word: str) -> list[str]:
    """The regular plural of a noun by its ending, or the irregular one."""
    if word in IRREGULAR:
        return [IRREGULAR[word]]
    if word.endswith("man"):
        return [f"{word[:-2]}en"]
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return [f"{word[:-1]}ies"]
    if word.endswith("o"):
        return [f"{word}s", f"{word}es"]
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return [f"{word}es"]
    halves = [f"{word[:-n]}ves" for n in (1, 2) if word[-n:] in ("f", "fe")]
    return [f"{word}s", *halves]


class Phrases:
    """Phrases that are looked for in sentences.

    Args:
        phrases: each with its number; of those that are spelt alike the first counts.
    """

    def __init__(self, phrases: Iterable[tuple[str, int]]) -> None:
        self._numbers: dict[Spelt, int] = {}
        for phrase, number in phrases:
            for form in forms(phrase):
                self._numbers.setdefault(form, number)
        self._longest = max(map(len, self._numbers), default=0)

    def found(self, text: str) -> list[int]:
        """Numbers of the phrases in a text, each once, in order; where several begin, the longest, which hides those
        inside it: there is no dog in "hot dog"."""
        words, at = spelt(text), 0
        found: dict[int, None] = {}
        while at < len(words):
            ends = range(min(at + self._longest, len(words)), at, -1)
            end = next((e for e in ends if words[at:e] in self._numbers), None)
            if end is not None:
                found[self._numbers[words[at:end]]] = None
            at = end or at + 1
        return list(found)

    def within(self, phrase: str) -> bool:
        """Whether a phrase has one of them in it, in its singular or its plural."""
        return any(self.found(" ".join(form)) for form in forms(phrase))
