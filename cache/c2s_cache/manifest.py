"""Invariant: the manifest holds only what determines the cache's bytes, each fact once; a reader needs no other
knowledge of a cache than its manifest."""

from __future__ import annotations

from bisect import bisect_right
from collections import ChainMap
from collections.abc import Iterable, Mapping
from functools import cached_property, reduce
from itertools import accumulate
from operator import getitem
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from c2s_cache.fingerprint import stage_fingerprint

FORMAT: Final = 4
IGNORE = 255
"""Label value of a pixel that is not annotated, and grid value of a cell that has no latent class."""
USABLE, ID_DATA, ID_END = "rows/usable", "rows/id_data", "rows/id_end"
"""Arrays that every cache has, whatever its stages: which rows can be used, and the names of their images."""

ResizeMode = Literal["shortest", "squash"]
"""How a whole image becomes a square: short side to size and centre crop, or both sides to size."""
Interpolation = Literal["bicubic", "bilinear"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TeacherInfo(_Model):
    """The frozen CLIP model that wrote the cache, and how it was run.

    `tower_digest` and `text_digest` are the SHA-256 over the weights and activation of its image tower and of
    its text tower (None: it has none), `digest` that of both together; `activation` is what the towers
    compute, "gelu" or "quick_gelu" (None: neither is said of it); `dim` the width D of its joint space; `image_size`
    its native input side in pixels; `dense_size` the input side of the dense pass, which gives a `grid` of
    (height, width) tokens of `dense_dim` channels, those that `dense_features` names. `mean` and `std` are per RGB
    channel, in units of pixel / 255; `resize_mode` and `interpolation` say how it was trained to see a whole image (see
    `c2s_cache.views`). `logit_scale` and `logit_bias` are those of its training, score = scale * cosine + bias (None:
    it has none). `mask_teacher` is the other model that gives the dense features, if there is one: `dense_size`,
    `dense_features`, `dense_dim` and `grid` are then that one's, and `digest` covers both. `precision` is the
    arithmetic of its passes, of `batch_size` images each.
    """

    name: str
    pretrained: str | None
    digest: str
    tower_digest: str
    text_digest: str | None = None
    activation: str | None = None
    dim: int = Field(gt=0)
    image_size: int = Field(gt=0)
    dense_size: int = Field(gt=0)
    dense_features: str = "plain"
    dense_dim: int = Field(gt=0)
    grid: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize_mode: ResizeMode = "shortest"
    interpolation: Interpolation = "bicubic"
    logit_scale: float | None = None
    logit_bias: float | None = None
    mask_teacher: TeacherInfo | None = None
    precision: str = "float32"
    batch_size: int = Field(default=32, gt=0)

    @property
    def dense_tower(self) -> TeacherInfo:
        """The model that gives the dense features."""
        return self.mask_teacher or self

    @property
    def one_pass(self) -> bool:
        """Whether a dense pass gives the embeddings of native images, too."""
        return self.mask_teacher is None and self.dense_size == self.image_size

    @property
    def looks(self) -> tuple[tuple[int, Interpolation], ...]:
        """Sides in pixels at which it sees a view, and how it is resampled to them."""
        native, dense = self.image_size, self.dense_size
        return tuple(
            dict.fromkeys([(native, self.interpolation), (dense, self.dense_tower.interpolation)])
        )


class ArrayRecord(_Model):
    """One array of a stage.

    Attributes:
        axes: names of the axes of one item; their lengths are the manifest's `axes`.
        dtype: of the values.
        end: path of the column that holds the ends of its items, which run together along one axis; None: an item
            per row. Items are per view where that column, or a row array itself, has the axis "view" first.
        chunk: rows, or slots, of a chunk; None: as many as a shard.
        shard: slots of a shard of a ragged array.
        zstd: level of compression; None: none.
    """

    axes: tuple[str, ...] = ()
    dtype: str
    end: str | None = None
    chunk: int | None = Field(default=None, gt=0)
    shard: int | None = Field(default=None, gt=0)
    zstd: int | None = 3


class StageRecord(_Model):
    """One stage of a cache: all that determines its bytes, and its arrays.

    Attributes:
        name: of the stage.
        settings: what was asked for.
        given: digests of what came from outside, beside the data set; a list has one for each part.
        facts: attributes of the manifest that its bytes depend on, such as "teacher.digest".
        upstream: stages that it depends on.
        once: whether it is computed once, with block 0, and not for every block.
        axes: lengths of axes that this stage decides.
        arrays: by path.
    """

    name: str
    settings: dict[str, Any] = {}
    given: dict[str, Any] = {}
    facts: tuple[str, ...] = ()
    upstream: tuple[str, ...] = ()
    once: bool = False
    axes: dict[str, int] = {}
    arrays: dict[str, ArrayRecord]

    def first(self, parts: int) -> StageRecord:
        """What it was when the cache had so many parts."""
        given = {k: v[:parts] if isinstance(v, list) else v for k, v in self.given.items()}
        return self.model_copy(update={"given": given})


class Part(_Model):
    """Images that came into a cache together: `source` are facts that change whenever one of them does, `order` is
    the digest of their ids in row order, `rows` counts them, quarantined ones included."""

    source: dict[str, Any]
    order: str
    rows: int = Field(gt=0)


class Manifest(_Model):
    """What a cache contains, and the request that made it.

    `parts` are its images as they came; the rows of each are in an order of their own, drawn with `seed`.
    `block_rows` rows form a block, the unit of writing, receipts and reading; each part begins with a new one.
    `view_size` is the side in pixels at which students see a view. `stages` are in the order in which they are
    computed.
    """

    format: Literal[4] = FORMAT
    dataset: str
    split: str
    parts: tuple[Part, ...] = Field(min_length=1)
    classes: tuple[str, ...]
    unseen: tuple[int, ...]
    block_rows: int = Field(gt=0)
    seed: int = 0
    view_size: int = Field(gt=0)
    teacher: TeacherInfo
    stages: tuple[StageRecord, ...]

    @model_validator(mode="after")
    def _check(self) -> Manifest:
        if len(self.classes) >= IGNORE:
            raise ValueError(f"label maps are stored as uint8: at most {IGNORE - 1} classes")
        if not all(0 <= c < len(self.classes) for c in self.unseen):
            raise ValueError("an unseen class id lies outside the class list")
        before: set[str] = set()
        for stage in self.stages:
            if stage.name in before or not before.issuperset(stage.upstream):
                raise ValueError(f"stage {stage.name} stands twice, or before what it depends on")
            before.add(stage.name)
            for fact in stage.facts:
                self.fact(fact)
        if len(self.arrays) < sum(len(stage.arrays) for stage in self.stages):
            raise ValueError("two stages have an array of the same path")
        for path, array in self.arrays.items():
            for axis in set(array.axes) - self.axes.keys():
                raise ValueError(f"array {path} has an axis {axis!r} without a length")
            if array.end is not None and array.end not in self.arrays:
                raise ValueError(f"array {path} has no column of ends {array.end!r}")
        return self

    @cached_property
    def axes(self) -> Mapping[str, int]:
        """Length of every axis but those of rows, blocks and slots, by name."""
        height, width = self.teacher.grid
        usual = {
            "channel": self.teacher.dim,
            "dense_channel": self.teacher.dense_dim,
            "grid_y": height,
            "grid_x": width,
            "class": self.num_classes,
        }
        return ChainMap(*(stage.axes for stage in self.stages), usual)

    @property
    def views(self) -> int:
        """Views of each image."""
        return self.axes.get("view", 1)

    @property
    def num_classes(self) -> int:
        """N, number of all classes, seen and unseen."""
        return len(self.classes)

    @property
    def seen(self) -> tuple[int, ...]:
        """Ids of the classes whose annotations training may use, ascending."""
        hidden = set(self.unseen)
        return tuple(c for c in range(len(self.classes)) if c not in hidden)

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The stages of this cache, each after those it depends on."""
        return tuple(stage.name for stage in self.stages)

    def stages_of(self, block: int) -> tuple[str, ...]:
        """Names of the stages that a block has: those computed once belong to block 0."""
        return tuple(stage.name for stage in self.stages if block == 0 or not stage.once)

    def stage(self, name: str) -> StageRecord:
        """A stage of this cache.

        Raises:
            LookupError: it has none of that name.
        """
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, StageRecord]:
        return {stage.name: stage for stage in self.stages}

    @cached_property
    def arrays(self) -> dict[str, ArrayRecord]:
        """Every array, by path."""
        return {path: array for stage in self.stages for path, array in stage.arrays.items()}

    @cached_property
    def owners(self) -> dict[str, str]:
        """Name of the stage that has an array, by path."""
        return {path: stage.name for stage in self.stages for path in stage.arrays}

    def per_view(self, path: str) -> bool:
        """Whether an array has an item for each view of a row, and not one for the row."""
        array = self.arrays[path]
        axes = array.axes if array.end is None else self.arrays[array.end].axes
        return axes[:1] == ("view",)

    def fact(self, name: str) -> Any:
        """The value of a dotted attribute, as JSON has it.

        Raises:
            ValueError: there is none.
        """
        try:
            return reduce(getitem, name.split("."), self._facts)
        except (LookupError, TypeError):
            raise ValueError(f"there is no fact {name!r}") from None

    @cached_property
    def _facts(self) -> dict[str, Any]:
        """All that a stage may list."""
        own = self.model_dump(mode="json", exclude={"stages"})
        dense_tower = own["teacher"]["mask_teacher"] or own["teacher"]
        return own | {"num_classes": self.num_classes, "dense_tower": dense_tower}

    @property
    def rows(self) -> int:
        """Listed images, quarantined ones included."""
        return sum(part.rows for part in self.parts)

    @property
    def extent(self) -> int:
        """Length of row arrays: one more than the number of the last row. Numbers between parts are no rows."""
        return self.block_range(self.blocks - 1).stop

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return self._ends[-1]

    def blocks_of(self, part: int) -> range:
        """Numbers of the blocks of a part."""
        return range(self._ends[part - 1] if part else 0, self._ends[part])

    def block_range(self, block: int) -> range:
        """Row numbers of a block: `block_rows` of them, or the rest of its part."""
        part = self._part(block)
        start = block * self.block_rows
        rest = self.parts[part].rows - (block - self.blocks_of(part).start) * self.block_rows
        return range(start, start + min(self.block_rows, rest))

    def _part(self, block: int) -> int:
        return bisect_right(self._ends, block)

    @cached_property
    def _ends(self) -> list[int]:
        """Where the blocks of each part end."""
        return list(accumulate(-(-part.rows // self.block_rows) for part in self.parts))

    def first(self, parts: int) -> Manifest:
        """What the manifest was when the cache had so many parts, at most as many as it has."""
        if parts >= len(self.parts):
            return self
        values = {name: getattr(self, name) for name in type(self).model_fields}
        stages = tuple(stage.first(parts) for stage in self.stages)
        return Manifest(**values | {"parts": self.parts[:parts], "stages": stages})

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprint of every stage in the last part, computed along what they depend on."""
        prints: dict[str, str] = {}
        for stage in self.stages:
            prints[stage.name] = stage_fingerprint(
                {
                    "stage": stage.name,
                    "settings": stage.settings,
                    "given": stage.given,
                    "facts": {fact: self.fact(fact) for fact in stage.facts},
                    "upstream": {name: prints[name] for name in stage.upstream},
                }
            )
        return prints

    def fingerprints_of(self, names: Iterable[str]) -> dict[str, str]:
        """Fingerprints of some stages and of all that these depend on; what the cache lacks is left out."""
        wanted = set(names)
        for stage in reversed(self.stages):  # each comes after those that it depends on
            if stage.name in wanted:
                wanted.update(stage.upstream)
        return {name: value for name, value in self.fingerprints.items() if name in wanted}

    def fingerprint(self, stage: str, block: int) -> str:
        """Fingerprint of a stage of a block: the stage's, when the block's part was the last one."""
        return self._fingerprints[self._part(block)][stage]

    @cached_property
    def _fingerprints(self) -> list[dict[str, str]]:
        return [self.first(n).fingerprints for n in range(1, len(self.parts) + 1)]
