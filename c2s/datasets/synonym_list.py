"""Words that stand for the classes of a data set beside their names: lists that are shipped."""

from __future__ import annotations

from pathlib import Path

from c2s.strict_yaml import read_yaml

FOLDER = Path(__file__).parent / "synonyms"


def synonyms_of(dataset: str) -> dict[str, tuple[str, ...]]:
    """Words by class name; none of a data set that has no list."""
    file = FOLDER / f"{dataset}.yaml"
    if not file.is_file():
        return {}
    return {name: tuple(words) for name, words in read_yaml(file).items()}
