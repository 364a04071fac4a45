"""Vocabularies of other classes than those that a run was trained with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from c2s.runs.run import Run
from c2s.text import cached_text
from c2s.vocabulary import Vocabulary, unit_norm
from c2s_cache.errors import ConfigError
from c2s_cache.reader import Cache
from c2s_cache.text_rows import require_told_apart


def foreign_vocabulary(
    run: Run,
    names: Sequence[Sequence[str]],
    embeddings: NDArray[np.floating],
    classes: Sequence[str] = (),
) -> Vocabulary:
    """Other classes; those that the run's training annotated, by any of their names, are seen.

    Args:
        run: opened run.
        names: per class its names.
        embeddings: float [M, D] of all names, any norm but 0.
        classes: what the classes are called, which counts as a name too; default: by their first names.

    Raises:
        ConfigError: the shape is wrong, a value is not finite or a row zero, or two classes have one embedding.
    """
    count = sum(map(len, names))
    want = (count, run.embeddings.shape[1])
    if embeddings.shape != want:
        raise ConfigError(
            f"the text embeddings have shape {list(embeddings.shape)}, expected {list(want)}: "
            f"{count} names, {want[1]} channels as {run.path} was trained with."
        )
    info = run.info
    spelt = (info.classes, info.prompts)
    annotated = {n for each in spelt for i, n in enumerate(each) if i not in info.unseen}
    classes = tuple(classes) or tuple(each[0] for each in names)
    known = [{c, *each} for c, each in zip(classes, names, strict=True)]
    unseen = tuple(i for i, each in enumerate(known) if annotated.isdisjoint(each))
    rows = unit_norm(embeddings)
    owners = [i for i, each in enumerate(names) for _ in each]
    require_told_apart([n for each in names for n in each], rows, owners, "the class names")
    return Vocabulary(classes, rows, unseen, tuple(map(tuple, names)), foreign=True)


def stored_embeddings(
    source: Path, run: Run, classes: Sequence[str], dataset: str
) -> NDArray[np.floating]:
    """Text embeddings float [K, D] of a data set's classes from a cache of it, or a .npy file.

    Args:
        source: a cache of the data set with the run's teacher, or a .npy file in class order.
        run: opened run.
        classes: names of the data set's classes.
        dataset: its name.

    Raises:
        CacheError: `source` is neither.
        ConfigError: the cache is of another data set or teacher, or the file is no array.
    """
    if source.suffix == ".npy":
        try:
            array = np.load(source, allow_pickle=False)
        except (OSError, ValueError, EOFError, MemoryError) as error:
            raise ConfigError(f"{source} cannot be read as an array ({error}).") from error
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
            got = (
                f"an array of {array.dtype}" if isinstance(array, np.ndarray) else "several arrays"
            )
            raise ConfigError(f"{source}: expected one .npy array of floating point, got {got}.")
        return array.astype(np.float64)
    cache = Cache(source)
    if cache.manifest.classes != tuple(classes):
        raise ConfigError(
            f"{source} holds the classes of {cache.manifest.dataset}, not those of {dataset}."
        )
    if cache.manifest.teacher.text_digest != run.info.teacher.text_digest:
        raise ConfigError(
            f"{source} holds text embeddings of the teacher {cache.manifest.teacher.name}, whose weights or "
            f"activation are not those that {run.path} was trained with."
        )
    return cached_text(cache, "all").embeddings
