"""Stage `words`: one embedding for every word that stands for an annotated class, its own name first, and for every
further noun that captions are searched for (GKC)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2s_cache import ArrayRecord, Block, ConfigError, Manifest
from c2s_cache.integrity import Finding
from c2s_pipeline.phrases import Phrases, forms
from c2s_pipeline.source import SplitInfo
from c2s_pipeline.stages.base import Once, Outline, Stage, StageSettings

EMBEDDINGS, CLASS = "words/embeddings", "words/class"
CAPTIONS = "captions"
"""The stage that nouns are there for."""
NOUN = -1
"""In place of the class of a word: it is a noun of captions and stands for none."""


class WordSettings(StageSettings):
    """`synonyms` are words by class name, beside the name itself (default: those that the data set has); those of
    classes that are unseen are passed over. The stage `text` says what the name itself is in a sentence, and what
    sentences the words stand in. `nouns` are further words that captions are searched for (default: those that the data
    set has), where the cache has the stage `captions`; those that name an unseen class are passed over."""

    synonyms: Mapping[str, tuple[str, ...]] | None = None
    nouns: tuple[str, ...] | None = None


class Words(Stage):
    """Words of the seen classes; nothing of an unseen one, be it a name or a synonym, is among them."""

    name = "words"
    Settings = WordSettings
    settings: WordSettings
    needs = ("text",)
    facts = ("teacher.text_digest", "classes", "unseen")
    default = False
    once = True
    inspected = (EMBEDDINGS, CLASS)

    def wanted(self, source: SplitInfo) -> bool:
        """Photos alone have no class names."""
        return bool(source.classes)

    def check(self, outline: Outline) -> None:
        """See `Stage.check`; a word stands for one class, whether that is seen or not."""
        super().check(outline)
        if len(outline.unseen) == len(outline.source.classes):
            raise ConfigError(
                "words: the cache has no label maps, so no class is seen whose words it could hold.",
                "Build with the stage labels, or without the stage words.",
            )
        classes, synonyms = outline.source.classes, self._synonyms(outline)
        unknown = next((c for c in synonyms if c not in classes), None)
        if unknown is not None:
            what = f"words.synonyms: {outline.source.name} has no class {unknown!r}."
            raise ConfigError(what)
        if self.settings.nouns and CAPTIONS not in outline.stages:
            raise ConfigError(
                f"words.nouns has no effect: the cache has no stage {CAPTIONS} to find them in.",
                f"Add it (--stage {CAPTIONS}), for a data set that has captions.",
            )
        require_own(classes, [synonyms.get(c, ()) for c in classes])

    def asked(self, outline: Outline) -> dict[str, Any]:
        """The synonyms of the seen classes, in the order of the classes; the nouns, if there are any."""
        source = outline.source
        seen = [c for i, c in enumerate(source.classes) if i not in outline.unseen]
        synonyms, nouns = self._synonyms(outline), self._nouns(outline)
        return {
            "synonyms": {c: list(synonyms[c]) for c in seen if synonyms.get(c)},
            **({"nouns": nouns} if nouns else {}),
        }

    def _nouns(self, outline: Outline) -> list[str]:
        """Those that are no word of a seen class, and have none of an unseen one in them."""
        if CAPTIONS not in outline.stages:
            return []
        source, given = outline.source, self.settings.nouns
        words = {c: [c, *self._synonyms(outline).get(c, ())] for c in source.classes}
        names = [source.classes[i] for i in outline.unseen]
        unseen = [w for c in names for w in (*words.pop(c), *source.synonyms.get(c, ()))]
        with suppress(
            ConfigError
        ):  # derived without the data set, whose nouns have been through this
            unseen += [source.prompts[i] for i in outline.unseen]
        hidden = Phrases((word, 0) for word in unseen)
        known, kept = {form for each in words.values() for w in each for form in forms(w)}, []
        for noun in source.nouns if given is None else given:
            own = forms(noun)
            if own and own.isdisjoint(known) and not hidden.within(noun):
                kept.append(noun)
                known |= own
        return kept

    def _synonyms(self, outline: Outline) -> Mapping[str, tuple[str, ...]]:
        given = self.settings.synonyms
        return outline.source.synonyms if given is None else given

    def axes(self, outline: Outline) -> dict[str, int]:
        """The names of the seen classes, their synonyms, and the nouns."""
        names = len(set(range(len(outline.source.classes))) - set(outline.unseen))
        asked = self.asked(outline)
        synonyms = sum(map(len, asked["synonyms"].values()))
        return {"word": names + synonyms + len(asked.get("nouns", ()))}

    def arrays(self, outline: Outline) -> dict[str, ArrayRecord]:
        """See `Stage.arrays`."""
        return {
            EMBEDDINGS: ArrayRecord(axes=("word", "channel"), dtype="float32"),
            CLASS: ArrayRecord(axes=("word",), dtype="int16"),
        }

    def compute_once(self, build: Once) -> Mapping[str, NDArray[Any]]:
        """The words as the class names are embedded."""
        from c2s_pipeline.teachers.text import class_embeddings

        m = build.manifest
        text, synonyms = m.stage("text").settings, m.stage(self.name).settings["synonyms"]
        if "templates" not in text:
            raise ConfigError(
                "words: the text embeddings are imported, so that nobody knows the sentences they stand in.",
                "Build without --text-embeddings, or without the stage words.",
            )
        require_own(_names(m), [tuple(synonyms.get(c, ())) for c in m.classes])
        if (leaked := _leaked(m)) is not None:
            raise ConfigError(
                f"words.nouns: {leaked!r} names an unseen class in the prompts that are asked for.",
                "Leave it out.",
            )
        of_class, words = zip(*listed(m), strict=True)
        rows = class_embeddings(build.teacher.text, words, text["templates"], build.progress)
        return {EMBEDDINGS: rows, CLASS: np.array(of_class, np.int16)}

    def inspect(self, block: Block) -> Iterator[Finding]:
        """Words of unseen or unknown classes, and nouns that name one; rows that are not of unit norm."""
        rows, classes = block.arrays.get(EMBEDDINGS), block.arrays.get(CLASS)
        if classes is not None:
            if not np.isin(classes, (*block.manifest.seen, NOUN)).all():
                yield Finding("leakage", CLASS, "a word is of an unseen or unknown class")
            if (leaked := _leaked(block.manifest)) is not None:
                yield Finding("leakage", CLASS, f"the noun {leaked!r} names an unseen class")
        if rows is not None and not np.allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-3):
            yield Finding("values", EMBEDDINGS, "the embedding of a word is not of unit norm")


def listed(manifest: Manifest) -> list[tuple[int, str]]:
    """Every word of a cache with its class, -1 of a noun, in the order of the arrays."""
    settings, names = manifest.stage(Words.name).settings, _names(manifest)
    synonyms = settings["synonyms"]
    of_classes = [
        (i, word)
        for i in manifest.seen
        for word in (names[i], *synonyms.get(manifest.classes[i], ()))
    ]
    return [*of_classes, *((NOUN, noun) for noun in settings.get("nouns", ()))]


def hidden(manifest: Manifest) -> list[str]:
    """The names of the unseen classes, and what stands for them in sentences."""
    return [
        every[i] for i in sorted(manifest.unseen) for every in (manifest.classes, _names(manifest))
    ]


def _names(manifest: Manifest) -> Sequence[str]:
    return manifest.stage("text").settings.get("prompts") or manifest.classes


def _leaked(manifest: Manifest) -> str | None:
    """A noun with the name of an unseen class in it; None: there is none."""
    unseen = Phrases((name, 0) for name in hidden(manifest))
    nouns = (word for of_class, word in listed(manifest) if of_class == NOUN)
    return next((noun for noun in nouns if unseen.within(noun)), None)


def require_own(names: Sequence[str], synonyms: Sequence[Sequence[str]]) -> None:
    """Refuse a word that stands twice: one of an unseen class must not be learnt as another's.

    Args:
        names: of the classes.
        synonyms: of each.

    Raises:
        ConfigError: a synonym is the name or synonym of another class, or is given twice.
    """
    owner = {name.casefold(): name for name in names}
    for name, words in zip(names, synonyms, strict=True):
        for word in words:
            if (other := owner.get(word.casefold())) is not None:
                raise ConfigError(
                    f"words.synonyms: {word!r} of the class {name!r} stands for the class {other!r} already."
                )
            owner[word.casefold()] = name
