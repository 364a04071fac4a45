"""Invariant: each stage of a block is a function of the stages before it, computed in fixed batches of rows."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2s_cache import Manifest
from c2s_cache.manifest import ID_DATA, USABLE
from c2s_pipeline.batch import Batch, Stored
from c2s_pipeline.source import ImageSource
from c2s_pipeline.stages.base import Stage
from c2s_pipeline.stages.registry import recorded_stages
from c2s_pipeline.teachers.base import Teacher

StageArrays = dict[str, dict[str, NDArray[Any]]]


def batch_rows(m: Manifest) -> int:
    """Rows that are computed together: those whose views fill a batch of the teacher. Bytes depend on it,
    so it depends on nothing but the request."""
    return max(m.teacher.batch_size // m.views, 1)


@dataclass(frozen=True)
class BlockResult:
    """What was computed of a block.

    Attributes:
        stages: arrays of each stage, by path.
        notes: by stage, what its receipt notes.
        passes: images that went through the teacher's tower, by stage.
        seconds: by stage, of the lanes that computed it.
        shown: bytes of the images that went through the tower.
    """

    stages: StageArrays
    notes: dict[str, dict[str, Any]]
    passes: Counter[str]
    seconds: dict[str, float]
    shown: int


class BlockComputer:
    """Computes the missing stages of a block.

    Args:
        manifest: the cache's manifest.
        source: the data set; None if nothing of it will be missing.
        teacher: gives the CLIP model, when a stage asks for it.
        device: torch device of what is computed beside the teacher.
        lanes: threads that compute batches side by side; None: one after the other, here.
    """

    def __init__(
        self,
        manifest: Manifest,
        source: ImageSource | None,
        teacher: Callable[[], Teacher],
        device: str = "cpu",
        lanes: Executor | None = None,
    ) -> None:
        self.manifest, self.source, self.teacher = manifest, source, teacher
        self.device, self._lanes = device, lanes
        self.stages = recorded_stages(manifest)

    def compute(
        self,
        ids: Sequence[str],
        first_row: int,
        missing: Sequence[str],
        stored: Stored,
        progress: Callable[[int], None] | None = None,
    ) -> BlockResult:
        """Compute the missing stages of a block.

        Args:
            ids: image ids of its rows.
            first_row: number of its first row.
            missing: stages to compute.
            stored: what is there of the block.
            progress: called with the number of rows done since the last call.

        Raises:
            DataError: a label map is missing or holds a value outside the class list.
        """
        size = batch_rows(self.manifest)
        settling = self.manifest.owners[USABLE] in missing
        stages = [self.stages[name] for name in missing]
        passes, seconds = Counter[str](), dict.fromkeys(missing, 0.0)

        def compute(start: int) -> tuple[_Made, dict[str, float], Counter[str]]:
            rows = range(first_row + start, first_row + min(start + size, len(ids)))
            usable = [r for r in rows if settling or stored.item(USABLE, r, 0)]
            named = [ids[row - first_row] for row in usable]
            batch = Batch(
                self.manifest,
                *(usable, named, stored, self.source, self.teacher, self.device, settling),
            )
            spent, sent = dict[str, float](), Counter[str]()
            for stage in stages:
                began, before = time.perf_counter(), batch.passes
                if batch.rows:
                    batch.add(stage.compute(batch))
                spent[stage.name] = time.perf_counter() - began
                sent[stage.name] += batch.passes - before
            return _Made.of(batch, rows), spent, sent

        made = []
        each = map if self._lanes is None else self._lanes.map
        for one, spent, sent in each(compute, range(0, len(ids), size)):
            made.append(one)
            seconds = {name: seconds[name] + spent[name] for name in seconds}
            passes.update(sent)
            if progress is not None:
                progress(len(one.rows))
        return BlockResult(
            {stage.name: self._arrays(stage, made, ids) for stage in stages},
            self._notes(stages, made, ids, first_row),
            passes,
            seconds,
            sum(one.shown for one in made),
        )

    def _arrays(
        self, stage: Stage, made: Sequence[_Made], ids: Sequence[str]
    ) -> dict[str, NDArray[Any]]:
        """Arrays of a stage: items of all rows, blank ones of those that cannot be used, and the `end` columns."""
        m, arrays = self.manifest, {}
        records = m.stage(stage.name).arrays
        ends = {record.end for record in records.values()}
        for path, record in records.items():
            if path in ends:
                continue
            views = m.views if m.per_view(path) else 1
            shape = (0,) if record.end else ()
            blank = np.full(
                (*shape, *(m.axes[a] for a in record.axes if a != "view" or record.end)),
                stage.blank.get(path, 0),
                record.dtype,
            )
            items = [item for one in made for item in one.items(path, blank, views)]
            if path == ID_DATA:  # also those of images that cannot be used have a name
                items = [np.frombuffer(name.encode(), np.uint8) for name in ids]
            if record.end is None:
                values = np.stack(items) if items else np.zeros((0, *blank.shape), record.dtype)
                arrays[path] = values.reshape(len(ids), *(m.axes[a] for a in record.axes))
            else:
                arrays[path] = np.concatenate(items)
                lengths = np.cumsum([len(item) for item in items])
                arrays[record.end] = lengths.reshape(
                    len(ids), *([views] if m.per_view(path) else [])
                )
        return arrays

    def _notes(
        self, stages: Iterable[Stage], made: Sequence[_Made], ids: Sequence[str], first: int
    ) -> dict[str, dict[str, Any]]:
        notes = {
            stage.name: stage.receipt([n for one in made for n in one.notes.get(stage.name, ())])
            for stage in stages
        }
        settling = self.manifest.owners[USABLE]
        if settling in notes:
            lost = ((row, reason) for one in made for row, reason in sorted(one.lost.items()))
            notes[settling]["quarantined"] = [
                {"row": row, "id": ids[row - first], "reason": reason} for row, reason in lost
            ]
        return notes


@dataclass(frozen=True)
class _Made:
    """What is kept of a batch when its images are let go.

    Attributes:
        rows: all of them.
        values: by path and usable row, its items.
        lost: by row, why it cannot be used.
        notes: by stage.
        shown: bytes of images that the teacher saw.
    """

    rows: range
    values: Mapping[str, Mapping[int, Sequence[NDArray[Any]]]]
    lost: Mapping[int, str]
    notes: Mapping[str, Sequence[Any]]
    shown: int

    @classmethod
    def of(cls, batch: Batch, rows: range) -> _Made:
        return cls(rows, batch.made, batch.lost, batch.notes, batch.shown)

    def items(self, path: str, blank: NDArray[Any], views: int) -> Iterable[NDArray[Any]]:
        """The items of all rows, in order."""
        values = self.values.get(path, {})
        for row in self.rows:
            yield from values.get(row, [blank] * views) if row not in self.lost else [blank] * views
