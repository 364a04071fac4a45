"""Invariant: a vocabulary says of every class its names, their embeddings, and whether training annotated it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from c2s_cache.errors import ConfigError


@dataclass(frozen=True)
class Vocabulary:
    """The classes among which pixels are told apart.

    Attributes:
        classes: K of them.
        embeddings: float32 [M, D], unit norm: those of all names, class after class.
        unseen: ids of the classes that training never annotated.
        names: per class the names that its embeddings stand for, M in all; default: itself.
        ids: of the classes, where these are some of a data set's; default: 0 to K - 1.
        foreign: whether these are others than the run was trained with (cross-dataset).
    """

    classes: tuple[str, ...]
    embeddings: NDArray[np.float32]
    unseen: tuple[int, ...] = ()
    names: tuple[tuple[str, ...], ...] = ()
    ids: tuple[int, ...] = ()
    foreign: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", self.names or tuple((c,) for c in self.classes))
        object.__setattr__(self, "ids", self.ids or tuple(range(len(self.classes))))
        assert len(self.names) == len(self.ids) == len(self.classes)
        assert sum(self.counts) == len(self.embeddings)

    @property
    def counts(self) -> tuple[int, ...]:
        """How many names each class has."""
        return tuple(len(names) for names in self.names)

    @property
    def seen(self) -> tuple[int, ...]:
        """Ids of the classes that training annotated."""
        return tuple(i for i in self.ids if i not in self.unseen)

    def __add__(self, other: Vocabulary) -> Vocabulary:
        """These classes and then other ones of the same data set."""
        return Vocabulary(
            self.classes + other.classes,
            np.concatenate([self.embeddings, other.embeddings]),
            self.unseen + other.unseen,
            self.names + other.names,
            self.ids + other.ids,
            self.foreign,
        )

    def without(self, place: int) -> Vocabulary:
        """The same classes but for one, numbered anew."""
        kept = [i for i in range(len(self.classes)) if i != place]
        parts = np.split(self.embeddings, np.cumsum(self.counts)[:-1])
        return replace(
            self,
            classes=tuple(self.classes[i] for i in kept),
            embeddings=np.concatenate([parts[i] for i in kept]),
            unseen=tuple(i - (i > place) for i in self.unseen if i != place),
            names=tuple(self.names[i] for i in kept),
            ids=(),
        )

    def averaged(self) -> Vocabulary:
        """The same with one embedding per class: the mean over its names, brought to unit norm."""
        if len(self.embeddings) == len(self.classes):
            return self
        parts = np.split(self.embeddings.astype(np.float64), np.cumsum(self.counts)[:-1])
        means = unit_norm(np.stack([part.mean(0) for part in parts]))
        names = tuple((" | ".join(names),) for names in self.names)
        return replace(self, embeddings=means, names=names)


def unit_norm(embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
    """Text embeddings float [M, D] brought to unit norm.

    Raises:
        ConfigError: a row is zero or not finite.
    """
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    if not (np.isfinite(norms).all() and norms.all()):
        raise ConfigError("a text embedding is zero or not finite.")
    unit: NDArray[np.float32] = (embeddings / norms).astype(np.float32)
    return unit
