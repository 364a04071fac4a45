"""Stage `words`: one embedding for every word that stands for an annotated class, its own name first (GKC)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2s_cache import ArrayRecord, Block, ConfigError
from c2s_cache.integrity import Finding
from c2s_pipeline.source import SplitInfo
from c2s_pipeline.stages.base import Once, Outline, Stage, StageSettings

EMBEDDINGS, CLASS = "words/embeddings", "words/class"


class WordSettings(StageSettings):
    """`synonyms` are words by class name, beside the name itself (default: those that the data set has); those of
    classes that are unseen are passed over. The stage `text` says what the name itself is in a sentence, and what
    sentences the words stand in."""

    synonyms: Mapping[str, tuple[str, ...]] | None = None


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
        require_own(classes, [synonyms.get(c, ()) for c in classes])

    def asked(self, outline: Outline) -> dict[str, Any]:
        """The synonyms of the seen classes, in the order of the classes."""
        source = outline.source
        seen = [c for i, c in enumerate(source.classes) if i not in outline.unseen]
        synonyms = self._synonyms(outline)
        return {"synonyms": {c: list(synonyms[c]) for c in seen if synonyms.get(c)}}

    def _synonyms(self, outline: Outline) -> Mapping[str, tuple[str, ...]]:
        given = self.settings.synonyms
        return outline.source.synonyms if given is None else given

    def axes(self, outline: Outline) -> dict[str, int]:
        """The names of the seen classes, and their synonyms."""
        names = len(set(range(len(outline.source.classes))) - set(outline.unseen))
        return {"word": names + sum(map(len, self.asked(outline)["synonyms"].values()))}

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
        names = text.get("prompts") or m.classes
        of_class = [tuple(synonyms.get(c, ())) for c in m.classes]
        require_own(names, of_class)
        words = [(i, word) for i in m.seen for word in (names[i], *of_class[i])]
        every = [word for _, word in words]
        rows = class_embeddings(build.teacher.text, every, text["templates"], build.progress)
        return {EMBEDDINGS: rows, CLASS: np.array([i for i, _ in words], np.int16)}

    def inspect(self, block: Block) -> Iterator[Finding]:
        """Words of unseen or unknown classes; rows that are not of unit norm."""
        rows, classes = block.arrays.get(EMBEDDINGS), block.arrays.get(CLASS)
        if classes is not None and not np.isin(classes, block.manifest.seen).all():
            yield Finding("leakage", CLASS, "a word is of an unseen or unknown class")
        if rows is not None and not np.allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-3):
            yield Finding("values", EMBEDDINGS, "the embedding of a word is not of unit norm")


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
