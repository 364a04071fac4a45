"""Invariant: a vocabulary says for every class its text embedding, and whether training annotated it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from c2s.runs.run import Run
from c2s_cache.errors import ConfigError
from c2s_cache.reader import Cache


@dataclass(frozen=True)
class Vocabulary:
    """The classes among which pixels are told apart.

    Attributes:
        classes: names, in the order of the data set's ids.
        unseen: ids of the classes that the run's training never annotated.
        embeddings: float32 [K, D], unit norm.
        foreign: whether these are others than the run was trained with (cross-dataset).
    """

    classes: tuple[str, ...]
    unseen: tuple[int, ...]
    embeddings: NDArray[np.float32]
    foreign: bool = False


def own_vocabulary(run: Run) -> Vocabulary:
    """The classes of the run's own data set."""
    return Vocabulary(run.info.classes, run.info.unseen, run.embeddings)


def foreign_vocabulary(
    run: Run,
    classes: Sequence[str],
    embeddings: NDArray[np.floating],
    prompts: Sequence[str] | None = None,
) -> Vocabulary:
    """The classes of another data set; those that the run's training annotated, by name, are seen.

    Args:
        run: opened run.
        classes: K names.
        embeddings: float [K, D], any norm but 0.
        prompts: the same names as a sentence wants them; either spelling counts.

    Raises:
        ConfigError: the shape is wrong, or a value is not finite or a row zero.
    """
    want = (len(classes), run.embeddings.shape[1])
    if embeddings.shape != want:
        raise ConfigError(
            f"the text embeddings have shape {list(embeddings.shape)}, expected {list(want)}: "
            f"{want[0]} classes, {want[1]} channels as {run.path} was trained with."
        )
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    if not (np.isfinite(norms).all() and norms.all()):
        raise ConfigError("a text embedding is zero or not finite.")
    info = run.info
    spelt = (info.classes, info.prompts)
    annotated = {n for names in spelt for i, n in enumerate(names) if i not in info.unseen}
    both = zip(classes, prompts or classes, strict=True)
    unseen = tuple(i for i, names in enumerate(both) if annotated.isdisjoint(names))
    unit = (embeddings / norms).astype(np.float32)
    return Vocabulary(tuple(classes), unseen, unit, foreign=True)


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
    if not cache.manifest.teacher.is_that_of(run.info.teacher):
        raise ConfigError(
            f"{source} holds text embeddings of the teacher {cache.manifest.teacher.name}, whose weights or "
            f"activation are not those that {run.path} was trained with."
        )
    return cache.text("all").embeddings
