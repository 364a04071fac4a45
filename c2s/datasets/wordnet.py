"""Words that WordNet has for the classes of a data set: a draft, from which a person strikes what is not meant."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from c2s_cache.errors import ConfigError, DataError

INDEX, DATA = "index.noun", "data.noun"
ENDINGS = (("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"))
PLURALS = (*ENDINGS, ("men", "man"), ("ies", "y"), ("s", ""))
"""Endings of plurals and what stands there in the singular, as in WordNet's own search."""


@dataclass(frozen=True)
class Sense:
    """What a noun may mean.

    Attributes:
        words: that mean it, as WordNet writes them, with blanks for underscores.
        gloss: its definition, without examples.
    """

    words: tuple[str, ...]
    gloss: str


class WordNet:
    """Nouns of WordNet's database (Miller, 1995), read from its files as wndb(5) describes them.

    Args:
        folder: holds `index.noun` and `data.noun`.

    Raises:
        ConfigError: it does not.
        DataError: they are no such files.
    """

    def __init__(self, folder: Path) -> None:
        try:
            index = (folder / INDEX).read_text(encoding="ascii")
            self._data = (folder / DATA).read_bytes()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{folder} holds no WordNet nouns ({INDEX}, {DATA}): {error}.",
                "They come with WordNet 3.0 or 3.1; on Debian: apt install wordnet-base, then --wordnet "
                "/usr/share/wordnet.",
            ) from error
        self._folder, self._offsets = folder, dict[str, list[int]]()
        for line in index.splitlines():
            if line.startswith(" "):  # the licence
                continue
            try:
                lemma, _, senses, *rest = line.split()
                offsets = rest[len(rest) - int(senses) :]
                self._offsets[lemma] = [int(offset) for offset in offsets]
            except ValueError as error:
                raise DataError(
                    f"{folder / INDEX} is no index of WordNet: {line[:60]!r}."
                ) from error

    def senses(self, name: str) -> list[Sense]:
        """What a name may mean, the commonest meaning first; a plural is looked up by its singular. Empty: no noun.

        Raises:
            DataError: the two files do not belong together.
        """
        for lemma in _lemmas(name):
            if lemma in self._offsets:
                return [self._sense(offset) for offset in self._offsets[lemma]]
        return []

    def _sense(self, offset: int) -> Sense:
        line = self._data[offset : self._data.find(b"\n", offset)].decode("ascii", "replace")
        try:
            facts, gloss = line.split("|", 1)
            at, _, _, count, *rest = facts.split()
            if at != f"{offset:08d}":
                raise ValueError(at)
            words = rest[: 2 * int(count, 16) : 2]
        except ValueError as error:
            raise DataError(
                f"{self._folder / DATA} has no meaning at byte {offset:,}: it is damaged, or of another version "
                f"than {INDEX}."
            ) from error
        return Sense(
            tuple(w.replace("_", " ") for w in words),
            gloss.split(';  "')[0].split('; "')[0].strip(),
        )


def _lemmas(name: str) -> Iterator[str]:
    lemma = "_".join(name.lower().split())
    yield lemma
    for plural, singular in PLURALS:
        if lemma.endswith(plural):
            yield lemma.removesuffix(plural) + singular


def draft_synonyms(wordnet: WordNet, classes: Sequence[str], prompts: Sequence[str]) -> str:
    """Words for classes, as YAML of the setting `words.synonyms`: sense by sense, each under its definition.

    A word that WordNet gives to two classes, or that names another class, stands in a comment.

    Args:
        wordnet: the nouns.
        classes: names in the data set.
        prompts: what each is looked up by.
    """
    found = [wordnet.senses(prompt) for prompt in prompts]
    own = [{_plain(c), _plain(p)} for c, p in zip(classes, prompts, strict=True)]
    named = set().union(*own)
    words = [{_plain(w) for sense in senses for w in sense.words} for senses in found]
    several = {
        word for word, count in Counter(w for each in words for w in each).items() if count > 1
    }
    lines = ["words:", "  synonyms:"]
    for name, mine, senses in zip(classes, own, found, strict=True):
        entries, given = list[str](), set(mine)
        for sense in senses:
            new = [w for w in sense.words if _plain(w) not in given]
            given |= set(map(_plain, new))
            entries += [f"      # {sense.gloss}"] if new else []
            for word in new:
                odd = _plain(word) in named or _plain(word) in several
                why = "  (of another class, too)" if odd else ""
                entries.append(f"      {'# ' if odd else ''}- {_quoted(word)}{why}")
        if any(line.startswith("      - ") for line in entries):
            lines += [f"    {_quoted(name)}:", *entries]
        else:
            why = "no other word" if senses else "not a noun of WordNet"
            lines += [f"    {_quoted(name)}: []  # {why}", *entries]
    return "\n".join(lines) + "\n"


def _plain(word: str) -> str:
    return " ".join(word.lower().split())


def _quoted(text: str) -> str:
    """A YAML scalar; in quotes wherever it might be read as something else."""
    simple = text.replace(" ", "").replace("-", "").isalpha() and text[0] != "-"
    reserved = text.lower() in ("yes", "no", "on", "off", "true", "false", "null", "y", "n")
    return text if simple and not reserved else json.dumps(text, ensure_ascii=False)
