"""What a build, a verification and a teacher in the loop rely on of a stage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2s.testing import shapes
from c2s_cache import Block, Manifest, StageRecord
from c2s_cache.manifest import ID_DATA, ID_END, USABLE
from c2s_pipeline.batch import Batch
from c2s_pipeline.source import ImageSource
from c2s_pipeline.stages.base import Items, Once, Stage, StageSettings
from c2s_pipeline.stages.registry import closed, known, name_of, recorded_stages

OF_EVERY_CACHE = {USABLE, ID_DATA, ID_END}


class StageContract(ABC):
    """Subclass it as `TestMine` and say which stage is meant; it is tried on a few Shapes scenes.

    Attributes:
        settings: of the stage, where the default ones are not meant.
        beside: further stages that the cache has, such as those that it `uses`.
    """

    settings: Mapping[str, Any] = {}
    beside: tuple[str, ...] = ("labels",)

    @abstractmethod
    def reference(self) -> str:
        """Its name, or `python:MODULE:CLASS`."""

    def name(self) -> str:
        """Its name."""
        return name_of(self.reference())

    def manifest(self) -> Manifest:
        """Of a cache with the stage and what it depends on."""
        name = self.name()
        return shapes.manifest_of(
            closed((name, *self.beside)), {name: self.settings} if self.settings else {}
        )

    def record(self) -> StageRecord:
        """What that cache says of the stage."""
        return self.manifest().stage(self.name())

    def stage(self) -> Stage:
        """The stage as a worker has it, by the record alone."""
        return recorded_stages(self.manifest())[self.name()]

    def values(self) -> dict[str, NDArray[Any]]:
        """What the cache holds, computed once."""
        return _values(self.manifest().model_dump_json(), known()[self.name()])

    def anew(
        self,
        manifest: Manifest | None = None,
        rows: Sequence[int] = range(shapes.ROWS),
        depends: bool = False,
    ) -> Items:
        """Its items of some rows, computed again from the arrays of the stages before it; with `depends`, of those
        alone that its record names."""
        manifest = manifest or self.manifest()
        stage, record = self.stage(), self.record()
        if stage.once:
            found = stage.compute_once(Once(manifest, shapes.teacher(), lambda done, total: None))
            return {path: [values] for path, values in found.items()}
        allowed = set(manifest.stage_names) - {stage.name}
        if depends:
            allowed = _upstream(manifest, record)
        paths = {path for name in allowed for path in manifest.stage(name).arrays} | OF_EVERY_CACHE
        stored = _Stored(manifest, {p: v for p, v in self.values().items() if p in paths})
        ids = [list(shapes.scenes().ids)[row] for row in rows]
        source = shapes.scenes() if not record.upstream or not stage.live else None
        return stage.compute(Batch(manifest, rows, ids, stored, source, shapes.teacher))

    def same(self, found: Items, want: Items) -> None:
        """Require the same items bit for bit."""
        assert found.keys() == want.keys()
        for path in want:
            assert len(found[path]) == len(want[path]), path
            for a, b in zip(found[path], want[path], strict=True):
                np.testing.assert_array_equal(a, b, path)

    def test_a_worker_has_it_by_its_record(self) -> None:
        """The record survives JSON, and its settings give the same record."""
        record = StageRecord.model_validate_json(self.record().model_dump_json())
        assert record == self.record()
        settings = type(self.stage()).recorded(record).settings
        group = {} if type(settings) is StageSettings else {self.name(): settings}
        again = shapes.manifest_of(self.manifest().stage_names, group)
        assert again.stage(self.name()) == record

    def test_its_arrays_begin_with_its_name(self) -> None:
        for path in self.record().arrays.keys() - OF_EVERY_CACHE:
            assert path.startswith(f"{self.name()}/"), path

    def test_it_gives_what_its_arrays_say(self) -> None:
        """An item for each row, or view of it, of their shape, and of a type that goes into theirs; no infinity."""
        manifest, found = self.manifest(), self.anew()
        arrays = self.record().arrays
        ends = set() if self.stage().once else {array.end for array in arrays.values()}
        assert found.keys() == arrays.keys() - ends
        for path, items in found.items():
            array, views = arrays[path], manifest.views if manifest.per_view(path) else 1
            assert len(items) == (1 if self.stage().once else shapes.ROWS * views), path
            shape = tuple(manifest.axes[a] for a in array.axes if a != "view" or array.end)
            for item in items:
                assert item.shape[1 if array.end else 0 :] == shape, path
                assert np.can_cast(item.dtype, array.dtype, "same_kind"), (path, item.dtype)
                assert np.isfinite(item.astype(array.dtype)).all(), path

    def test_the_same_is_computed_twice(self) -> None:
        """Bit for bit: that is what makes caches the same."""
        self.same(self.anew(), self.anew())

    def test_it_reads_nothing_but_what_it_depends_on(self) -> None:
        """Else a change there leaves a stale cache."""
        self.same(self.anew(depends=True), self.anew())

    def test_facts_that_it_does_not_list_decide_nothing(self) -> None:
        manifest, record = self.manifest(), self.record()
        other = {"seed": manifest.seed + 1, "view_size": 48, "split": "other", "unseen": (0, 1)}
        for fact, value in other.items():
            if fact not in record.facts:
                self.same(self.anew(manifest.model_copy(update={fact: value})), self.anew())

    def test_a_row_does_not_depend_on_those_beside_it(self) -> None:
        stage = self.stage()
        if stage.once:
            return
        whole, manifest = self.anew(), self.manifest()
        for row in (0, shapes.ROWS - 1):
            alone, among = self.anew(rows=[row]), dict[str, list[NDArray[Any]]]()
            for path, items in whole.items():
                views = manifest.views if manifest.per_view(path) else 1
                among[path] = list(items[row * views : (row + 1) * views])
            if stage.live:
                likeness = stage.compare(among, alone)
                assert likeness.value >= likeness.at_least, f"row {row}: {likeness}"
            else:
                self.same(alone, among)

    def test_which_unseen_class_a_pixel_has_decides_nothing(self) -> None:
        """Leakage: with unseen classes swapped in the data set, every byte is as it was."""
        manifest = self.manifest()
        found, _ = shapes.computed(manifest, _Swapped(shapes.scenes()))
        for path in self.record().arrays:
            np.testing.assert_array_equal(found[path], self.values()[path], path)

    def test_it_finds_nothing_wrong_with_its_own_values(self) -> None:
        stage, record = self.stage(), self.record()
        assert set(stage.inspected) <= record.arrays.keys()
        read = {*stage.inspected, USABLE}
        read |= {end for path in stage.inspected if (end := record.arrays[path].end)}
        block = Block(self.manifest(), 0, {path: self.values()[path] for path in read})
        assert list(stage.inspect(block)) == []

    def test_values_of_other_rows_are_told_apart(self) -> None:
        """What `compare` says of a live stage: nothing is more like the items than themselves."""
        stage = self.stage()
        if not stage.live:
            return
        found = self.anew()
        same = stage.compare(found, found)
        other = stage.compare(found, {path: items[::-1] for path, items in found.items()})
        assert same.value >= same.at_least
        assert other.value < other.at_least

    def test_passes_are_counted(self) -> None:
        """`c2s cache` says how many passes a build saves."""
        manifest = self.manifest()
        passes: dict[str, int] = {}
        for stage in recorded_stages(manifest).values():
            passes |= stage.passes(shapes.written(manifest, self.values()))
        assert sum(passes.values()) == shapes.computed(manifest, shapes.scenes())[1]


@lru_cache(maxsize=16)
def _values(manifest: str, stage: type[Stage]) -> dict[str, NDArray[Any]]:
    return shapes.computed(Manifest.model_validate_json(manifest), shapes.scenes())[0]


def _upstream(manifest: Manifest, record: StageRecord) -> set[str]:
    """The stages that one depends on, directly or not."""
    found = set(record.upstream)
    for name in record.upstream:
        found |= _upstream(manifest, manifest.stage(name))
    return found


class _Stored:
    """Arrays of a block, as `c2s_pipeline.batch.Stored`."""

    def __init__(self, manifest: Manifest, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._arrays, self._block = arrays, Block(manifest, 0, arrays)

    def __contains__(self, path: str) -> bool:
        return path in self._arrays

    def item(self, path: str, row: int, view: int) -> NDArray[Any]:
        assert path in self._arrays, f"it reads {path}, of a stage that it does not depend on"
        record = self._block.manifest.arrays[path]
        found = self._block.item(path, row, view)
        return found.astype(record.dtype)


class _Swapped:
    """A data set whose unseen classes have changed places."""

    def __init__(self, source: ImageSource) -> None:
        self._source = source

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def labels(self, image_id: str) -> NDArray[np.uint8]:
        """Each unseen class in place of the one before."""
        table = np.arange(256, dtype=np.uint8)
        table[list(self._source.unseen)] = np.roll(self._source.unseen, 1)
        return table[self._source.labels(image_id)]
