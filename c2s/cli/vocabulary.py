"""Invariant: what eval, predict and fold take for classes is said, read and embedded in one place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from c2s.class_list import FILE, Names, class_list
from c2s_cache.errors import ConfigError

if TYPE_CHECKING:
    from c2s.datasets import Dataset
    from c2s.runs.run import Run
    from c2s.vocabulary import Vocabulary


def run_vocabulary(
    run: Run, classes: Names | None, source: Path | None = None, weights: str | None = None
) -> Vocabulary:
    """The classes that are named, those of a cache, or the run's own.

    Args:
        run: opened run.
        classes: names per class, or None.
        source: a cache with its classes, or a .npy file with an embedding for each name.
        weights: see `class_embeddings`.

    Raises:
        ConfigError: names without a use, embeddings without names, or a run that knows no class.
    """
    from c2s.evaluation.vocabulary import foreign_vocabulary, stored_embeddings
    from c2s.text_tower import class_embeddings
    from c2s_cache.reader import Cache

    if source is not None and source.suffix != ".npy":
        if classes is not None:
            raise ConfigError(f"The cache {source} has its own class names; drop --classes.")
        own = Cache(source).manifest
        stored = stored_embeddings(source, run, own.classes, own.dataset)
        return foreign_vocabulary(run, [(name,) for name in own.classes], stored)
    if classes is None:
        if source is not None:
            raise ConfigError(f"{source} holds no names; give them in its order with --classes.")
        if not run.info.classes:
            raise ConfigError(
                f"{run.path} was trained without class names; name some with --classes."
            )
        return run.vocabulary
    if source is not None:
        return foreign_vocabulary(run, classes, stored_embeddings(source, run, (), str(source)))
    return foreign_vocabulary(run, classes, class_embeddings(run, _every(classes), weights))


def data_vocabulary(
    run: Run, data: Dataset, source: str | None, weights: str | None = None
) -> Vocabulary:
    """The classes of a data set, the run's own or another.

    Args:
        run: opened run.
        data: the data set.
        source: of another's text embeddings: a cache of it, a .npy file, "names", or @FILE with a list of the
            names per class, in its order; None: it is the run's own, or "names" for a run that has no classes.
        weights: see `class_embeddings`.

    Raises:
        ConfigError: the classes are others than those of the run, of the cache or of the list.
    """
    from c2s.evaluation.evaluate import check_classes
    from c2s.evaluation.vocabulary import foreign_vocabulary, stored_embeddings
    from c2s.text_tower import class_embeddings

    if source is None and not run.info.classes:
        source = "names"  # it knows no word of its own
    if source is None:
        check_classes(run, data.classes, data.name)
        return run.vocabulary
    names = data.names
    if source.startswith(FILE):
        names = class_list(source, "--vocabulary")
        if len(names) != len(data.classes):
            raise ConfigError(
                f"{source.removeprefix(FILE)} names {len(names)} classes; {data.name} has {len(data.classes)}."
            )
    if source == "names" or source.startswith(FILE):
        embeddings = class_embeddings(run, _every(names), weights)
    else:
        embeddings = stored_embeddings(Path(source), run, data.classes, data.name)
    return foreign_vocabulary(run, names, embeddings, data.classes)


def _every(names: Names) -> list[str]:
    return [name for each in names for name in each]
