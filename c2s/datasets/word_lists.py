"""Lists that are shipped: words for the classes of a data set beside their names, and nouns of its captions."""

from __future__ import annotations

from pathlib import Path

from c2s.strict_yaml import read_yaml

FOLDER = Path(__file__).parent / "synonyms"
NOUNS = Path(__file__).parent / "nouns"


def synonyms_of(dataset: str) -> dict[str, tuple[str, ...]]:
    """Words by class name; none of a data set that has no list."""
    file = FOLDER / f"{dataset}.yaml"
    if not file.is_file():
        return {}
    return {name: tuple(words) for name, words in read_yaml(file).items()}


def nouns_of(dataset: str) -> tuple[str, ...]:
    """Nouns, in the singular where they have one; none of a data set that has no list."""
    file = NOUNS / f"{dataset}.yaml"
    if not file.is_file():
        return ()
    return tuple(noun for nouns in read_yaml(file).values() for noun in nouns)
