"""Invariant: everything about a stage stands in its class; what a build does follows from looping over stages.

A further stage is one subclass of `Stage` in a module of its own, found by its entry point in the group `c2s.stages` or
named as `python:module:Class`.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from c2s_cache import (
    ArrayRecord,
    Block,
    CacheError,
    ConfigError,
    Manifest,
    StageRecord,
    TeacherInfo,
)
from c2s_cache.integrity import Finding

if TYPE_CHECKING:
    from c2s_cache import Cache
    from c2s_cache.receipt import Receipt
    from c2s_pipeline.batch import Batch
    from c2s_pipeline.source import SplitInfo
    from c2s_pipeline.teachers.base import Teacher

Items = Mapping[str, Sequence[NDArray[Any]]]
"""Values by array path: an item for each row, or each view of each row, in their order."""

CLS_FACTS = (
    *("teacher.tower_digest", "teacher.precision", "teacher.batch_size"),
    *("teacher.image_size", "teacher.mean", "teacher.std", "teacher.interpolation"),
)
"""What decides an image embedding, beside the image."""
DENSE_FACTS = (
    *("dense_tower.tower_digest", "teacher.precision", "teacher.batch_size"),
    *("dense_tower.dense_size", "dense_tower.dense_features"),
    *("dense_tower.mean", "dense_tower.std", "dense_tower.interpolation"),
)
"""What decides dense features, beside the image."""


class StageSettings(BaseModel):
    """Settings of a stage; the base has none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def idle(self) -> Mapping[str, str]:
        """Settings that have no effect beside the others, and why; they are refused, and never recorded."""
        return {}


def option(name: str, words: str, default: Any = None, **facts: Any) -> Any:
    """A setting that `c2s cache build`, `plan` and `derive` have an option of its own for; one of a bool is a flag
    that turns it round.

    Args:
        name: of the option, `--like-this`.
        words: its help, without the default.
        default: of the setting.
        facts: what else `pydantic.Field` takes.
    """
    return Field(default=default, description=words, json_schema_extra={"option": name}, **facts)


@dataclass(frozen=True)
class Outline:
    """What is known of a cache before its stages are recorded: the data set, the teacher, the side of the students'
    views, the rows of a block, the stages that it is to have; the manifest of the cache that it is derived from,
    if there is one; which of the stages a folder brings; and the ids of classes that the cache annotates nowhere."""

    source: SplitInfo
    teacher: TeacherInfo
    view_size: int
    block_rows: int
    stages: tuple[str, ...]
    base: Manifest | None = None
    imported: tuple[str, ...] = ()
    unseen: tuple[int, ...] = ()


@dataclass(frozen=True)
class Likeness:
    """How like stored values are to the same computed anew: `value`, 1 if equal, must be `at_least` that; `what` is
    measured, as a sentence about the value goes on."""

    value: float
    at_least: float
    what: str


class Stage(ABC):
    """One stage of a cache.

    Args:
        settings: an instance of its `Settings`.

    Attributes:
        name: of the stage; its arrays are called `name/...`.
        Settings: model of its settings, a group of that name in a build request.
        needs: stages that it depends on.
        uses: stages that it depends on where the cache has them.
        facts: attributes of the manifest that decide its bytes, beside its settings.
        default: it is part of a cache whose request names no stages.
        sourced: its values are made of what the data set itself has, and of nothing that a teacher says.
        once: it is computed once, by `compute_once`, and not for every block.
        annotates: it holds what people annotated; in a cache without such a stage no class is seen.
        live: its values can be computed anew from stored ones and compared, by the teacher.
        blank: by path, what stands in place of a value for rows that cannot be used; 0 where nothing is said.
        inspected: arrays that `inspect` looks at.
        of_teacher: fields of a request that say how a teacher gives its values, and nothing else.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[StageSettings]] = StageSettings
    needs: ClassVar[tuple[str, ...]] = ()
    uses: ClassVar[tuple[str, ...]] = ()
    facts: ClassVar[tuple[str, ...]] = ()
    default: ClassVar[bool] = True
    sourced: ClassVar[bool] = False
    once: ClassVar[bool] = False
    annotates: ClassVar[bool] = False
    live: ClassVar[bool] = False
    blank: ClassVar[Mapping[str, int]] = {}
    inspected: ClassVar[tuple[str, ...]] = ()
    of_teacher: ClassVar[tuple[str, ...]] = ()

    settings: Any

    def __init__(self, settings: Any = None) -> None:
        self.settings = self.Settings() if settings is None else settings

    @classmethod
    def recorded(cls, record: StageRecord) -> Stage:
        """The stage as a cache has it.

        Raises:
            CacheError: its settings are not those of this class.
        """
        try:
            return cls(cls.Settings.model_validate(record.settings))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(p) for p in (cls.name, *first["loc"]))
            raise CacheError(
                f"the manifest's settings of stage {cls.name} do not fit: {where}: {first['msg']}."
            ) from error

    @property
    def folder(self) -> Path | None:
        """Where what it imports lies, by image id; None: it imports nothing."""
        return None

    def brings(self, outline: Outline) -> bool:
        """Whether a folder, or that of the base of a derived cache, brings its values."""
        return False

    def wanted(self, source: SplitInfo) -> bool:
        """Whether there is anything to compute: false if the data set, or a setting, has nothing for this stage."""
        return True

    def require_effect(self, said: Mapping[str, Any]) -> None:  # noqa: B027 (most have nothing to refuse)
        """Refuse what a user says, nested settings without defaults, that has no effect on it: raise `ConfigError`."""

    def check(self, outline: Outline) -> None:
        """Refuse settings that do not fit.

        Raises:
            ConfigError: they do not.
        """
        default = self.Settings()
        for key, why in self.settings.idle().items():
            if getattr(self.settings, key) != getattr(default, key):
                raise ConfigError(f"{self.name}.{key} has no effect: {why}.")

    def record(self, outline: Outline) -> StageRecord:
        """What the manifest says of this stage.

        Raises:
            ConfigError: the settings do not fit.
        """
        self.check(outline)
        return StageRecord(
            name=self.name,
            settings=self.asked(outline),
            given=self.given(outline),
            facts=self.decisive(outline),
            upstream=self.upstream(outline),
            once=self.once,
            axes=self.axes(outline),
            arrays=self.arrays(outline),
        )

    def asked(self, outline: Outline) -> dict[str, Any]:
        """The settings as the manifest has them: JSON, without those that have no effect."""
        settings: StageSettings = self.settings
        return settings.model_dump(mode="json", exclude=set(settings.idle()))

    def given(self, outline: Outline) -> dict[str, Any]:
        """Digests of what comes from outside, beside the data set."""
        return {}

    def decisive(self, outline: Outline) -> tuple[str, ...]:
        """Attributes of the manifest that decide the bytes under these settings."""
        return self.facts

    def upstream(self, outline: Outline) -> tuple[str, ...]:
        """Stages that this one depends on."""
        return (*self.needs, *(name for name in self.uses if name in outline.stages))

    def axes(self, outline: Outline) -> dict[str, int]:
        """Lengths of axes that this stage decides, by name."""
        return {}

    @abstractmethod
    def arrays(self, outline: Outline) -> dict[str, ArrayRecord]:
        """The arrays, by path. Each `end` column is filled in from the items of its array."""

    def asks_teacher(self, manifest: Manifest, missing: Collection[str]) -> bool:
        """Whether the teacher is needed to compute it, where the `missing` stages of a cache are not there."""
        return self.live or self.once

    def compute(self, batch: Batch) -> Items:
        """Values of some rows.

        Args:
            batch: the rows, with whatever the stages before this one made of them.

        Returns:
            Of every array but the `end` columns, an item per row, or per view of each row, in order.

        Raises:
            DataError, UnreadableImage: the data set is not as it must be.
        """
        raise NotImplementedError

    def compute_once(self, build: Once) -> Mapping[str, NDArray[Any]]:
        """Values of a stage that is computed once, by path."""
        raise NotImplementedError

    def project_once(self, build: Once) -> tuple[float, int]:
        """Seconds that `compute_once` takes here, and bytes of its values; a stage that takes long tries a part."""
        began = time.perf_counter()
        values = self.compute_once(build)
        return time.perf_counter() - began, sum(array.nbytes for array in values.values())

    def choices(self, manifest: Manifest) -> Mapping[str, Mapping[str, int]]:
        """For settings that say how much is stored: by key and value, bytes that a row takes at most."""
        return {}

    def receipt(self, notes: Sequence[Any]) -> dict[str, Any]:
        """What a receipt says of its block, from what `compute` noted of its batches (`Batch.note`), in order."""
        return {}

    def passes(self, cache: Cache) -> Mapping[str, int]:
        """Images that went through the teacher's tower for this stage, by the name of a pass that stages may share."""
        return {}

    def inspect(self, block: Block) -> Iterator[Finding]:
        """What is wrong with the values of a block that was read of the arrays `inspected`: leakage, above all."""
        return iter(())

    def compare(self, stored: Items, anew: Items) -> Likeness:
        """How like the stored items of some rows are to the same computed anew. Only of stages that are `live`."""
        raise NotImplementedError

    def describe(self, receipts: Iterable[Receipt]) -> tuple[dict[str, Any], str | None]:
        """Facts about the stage for `info`, and one sentence of them for people."""
        return {}, None


@dataclass(frozen=True)
class Once:
    """What a stage that is computed once may use: the manifest, the teacher, and who is told of (done, total)."""

    manifest: Manifest
    teacher: Teacher
    progress: Callable[[int, int], None]


def cosine(stored: Sequence[NDArray[Any]], anew: Sequence[NDArray[Any]]) -> float:
    """Smallest cosine between corresponding vectors, of items [..., D]; 1 of none, -1 where their numbers differ."""
    worst = 1.0
    for a, b in zip(stored, anew, strict=True):
        x, y = np.atleast_2d(a.astype(np.float64)), np.atleast_2d(b.astype(np.float64))
        if x.shape != y.shape:
            return -1.0
        norms = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
        worst = float(((x * y).sum(-1) / np.maximum(norms, 1e-12)).min(initial=worst))
    return worst
