"""Invariant: a method drives a student through one step and gives losses; it knows no trainer."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from c2s.datasets.descriptor import TestProtocol
from c2s.methods.batch import Batch
from c2s.methods.examples import CLIP, Examples
from c2s.methods.grid import Grid
from c2s.students.base import CLIP_SCALE, Student
from c2s.students.registry import create
from c2s.text import TEXT, cached_text, cached_words, numbered_words
from c2s.vocabulary import Vocabulary
from c2s_cache.manifest import Manifest
from c2s_cache.reader import Cache

CONCERNED = 100
"""Iterations after which a method may be concerned about what it logs."""


@dataclass(frozen=True)
class Facts:
    """What a method may know beside its batches.

    Attributes:
        seen: the seen classes, those that have embeddings; none where a cache has no class names.
        first_latent_id: N, the number of all classes; latent class u has id N + u in a pseudo mask.
        unseen: the unseen classes, of a method that may know them.
        words: the seen classes with all words that stand for each, where the cache has any.
        logit_scale: of the teacher's training, or CLIP's where that is not known.
        student: which the method is to drive.
        every_word: float32 [W, D], embeddings of the words of the cache as its captions number them, where it has any.
    """

    seen: Vocabulary
    first_latent_id: int
    unseen: Vocabulary | None = None
    words: Vocabulary | None = None
    logit_scale: float = CLIP_SCALE
    student: Student | None = None
    every_word: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, cache: Cache, student: Student, unseen: Vocabulary | None = None) -> Facts:
        """What a method may know that trains a student from a cache; of unseen classes, what is given."""
        m = cache.manifest
        scale, seen = m.teacher.logit_scale or CLIP_SCALE, cached_text(cache, "seen")
        words, every = cached_words(cache), numbered_words(cache)
        return cls(seen, m.num_classes, unseen, words, scale, student, every)


class Method(nn.Module, ABC):
    """One paper's objective. Its buffers and parameters live in the training checkpoint only."""

    @abstractmethod
    def forward(
        self, student: Callable[..., Any], images: Tensor, batch: Batch
    ) -> dict[str, Tensor]:
        """Losses of one step.

        Args:
            student: the student's `forward`, as it is or compiled.
            images: float [B, 3, S, S], what it is to see of the batch: distorted, normalised, padded with 0.
            batch: what the images were made from, on their device.

        Returns:
            Scalars by name; "loss" is the one to minimise, the others are for the log.
        """

    def beginnings(
        self, student: Student, images: Tensor, batch: Batch
    ) -> dict[str, Callable[[], Iterable[Tensor]]]:
        """Ever longer beginnings of `forward`, by the part that each ends with, and what each has computed then; for
        `c2s bench train`, which times them with their backward passes. None: its step has no parts of its own."""
        return {}

    def concern(self, record: Mapping[str, float]) -> str | None:
        """What a record of the log gives reason to warn of, as a sentence; None: nothing. Asked from iteration
        `CONCERNED` on, and heard once.

        Args:
            record: means of what `forward` gives, over an iteration.
        """
        return None


class MethodConfig(BaseModel, ABC):
    """Settings of a method, and what it asks of the rest of the program; one per paper, found by its `name`.

    Attributes:
        name: of the method.
        stages: of a cache that it reads; settings may ask for others (`read_stages`).
        beside: further stages that a cache for it is built with, where the data set has anything for them.
        student: name of the default one.
        kind: what a student of it must be.
        defaults: nested values of a run's settings that replace the general ones.
        by_dataset: the same, for caches of a data set.
        any_view: nothing that it reads belongs to a view, so that views may be drawn anew without a teacher.
        seen_offset: what its test protocol takes off the scores of seen classes, in the inductive setting.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    stages: ClassVar[tuple[str, ...]]
    beside: ClassVar[tuple[str, ...]] = ()
    student: ClassVar[str] = "segformer-b4"
    kind: ClassVar[type[Student]]
    defaults: ClassVar[Mapping[str, Any]] = {}
    by_dataset: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    any_view: ClassVar[bool] = False
    seen_offset: ClassVar[float] = 0.0

    @classmethod
    def folder(cls) -> Path:
        """Where its files lie, `recipes/` among them."""
        return Path(inspect.getfile(cls)).parent

    @classmethod
    def tables(cls) -> Mapping[str, Grid]:
        """The paper's ablations by the names of its tables; the first is the main one, which the demo runs."""
        return {}

    def paper(self, dataset: str, student: str, transductive: bool) -> dict[str, float] | None:
        """What the paper measured with a student on a data set, in per cent by the name of the score, if it did."""
        return None

    def protocol(self, data: TestProtocol, size: int) -> TestProtocol:
        """How a student that was trained on views of `size` pixels is tested on a data set."""
        return data.at(size)

    def background_threshold(self, dataset: str) -> float | None:
        """Score below which a pixel of a data set is background, if the method has one; tuned by its authors."""
        return None

    @property
    def clip_frames(self) -> int:
        """T: so many consecutive frames of a clip follow each other in a batch, in the same view; 1: rows alone. Such
        a method calls this setting `frames`."""
        return 1

    def read_stages(self) -> tuple[str, ...]:
        """The stages that a cache must have under these settings."""
        return self.stages

    def learns_from(self, manifest: Manifest) -> dict[str, str]:
        """Fingerprints of what training reads of a cache, by stage: the stages that it asks for, all that these are
        made of, the text, and the clips where frames go together. What else a cache has makes no difference to a
        run."""
        clips = (manifest.owners[CLIP],) if self.clip_frames > 1 and CLIP in manifest.owners else ()
        return manifest.fingerprints_of((*self.read_stages(), *clips, TEXT))

    def new_student(self, name: str, weights: str | None, cache: Cache) -> Student:
        """A student to begin with.

        Args:
            name: of the student.
            weights: pretrained ones of its backbone; see `c2s.students.create`.
            cache: that it will be trained from, with the stages that the method reads.

        Raises:
            ConfigError: it cannot be made.
        """
        return create(name, cache.manifest.teacher.dim, weights)

    def blank_student(self, name: str, dim: int, size: int | None = None) -> Student:
        """A student of random weights that these settings make, without a cache: to count what it costs.

        Args:
            name: of the student.
            dim: D, its width.
            size: side in pixels of views that it must be fit to be trained on; None: of any.

        Raises:
            ConfigError: it cannot be made, or not for such views.
        """
        return create(name, dim, "random")

    def require_fit(self, manifest: Manifest) -> None:
        """Refuse a cache whose views or teacher these settings do not fit: raise `ConfigError`. Most fit any that has
        their stages. Asked before anything is computed; `new_student` may know more."""

    @abstractmethod
    def examples(self, manifest: Manifest, transductive: bool = False) -> Examples[Any]:
        """How it learns from the views of a cache.

        Args:
            manifest: of the cache.
            transductive: it may know which pixels are of unseen classes; for a self-training and nothing else.
        """

    @abstractmethod
    def build(self, facts: Facts) -> Method:
        """The module.

        Raises:
            ValueError: settings do not fit the teacher's width.
        """
