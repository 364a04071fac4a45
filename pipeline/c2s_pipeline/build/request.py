"""Invariant: a request and a source determine every byte of a cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from c2s_cache import ConfigError, Manifest, Part, TeacherInfo
from c2s_pipeline.source import SplitInfo
from c2s_pipeline.stages.base import Outline, Stage, StageSettings
from c2s_pipeline.stages.registry import closed, known, recorded_stages
from c2s_pipeline.teachers.base import Precision, TeacherSpec
from c2s_pipeline.teachers.recorded import recorded_weights
from c2s_pipeline.teachers.tower import DenseFeatures


class BuildRequest(BaseModel):
    """Everything a user decides about a cache, apart from the data set and where it goes.

    Beside these fields a request has a group of settings for each stage, under its name; `request_model` makes the
    class that has them. `stages` is what the cache is to hold, closed under what they need; None: the default ones.
    `teacher` and `pretrained` name the CLIP model, which is run with `precision` on `batch_size` images at a time;
    `dense_size` is the input side of its dense pass in pixels (default: its native size), `dense_features` says which
    tokens that gives; `mask_teacher` and `mask_pretrained` name another model that gives them. `view_size` is the side
    at which students see a view. `block_rows` rows make a block; `seed` shuffles the rows and draws views; `limit`
    takes only the first so many images of the shuffled split, and lets a cache grow up to so many.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    stages: tuple[str, ...] | None = None
    teacher: str = "ViT-B-16"
    pretrained: str | None = None
    mask_teacher: str | None = None
    mask_pretrained: str | None = None
    dense_size: int | None = Field(default=None, ge=1, le=8192)
    dense_features: DenseFeatures = "plain"
    precision: Precision = "float32"
    batch_size: int = Field(default=32, ge=1, le=8192)
    view_size: int = Field(default=512, ge=8, le=8192)
    block_rows: int = Field(default=128, ge=1, le=65536)
    seed: int = Field(default=0, ge=0, lt=2**32)
    limit: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _check(self) -> BuildRequest:
        if self.mask_pretrained is not None and self.mask_teacher is None:
            raise ValueError("mask_pretrained has no effect without mask_teacher")
        return self

    @property
    def spec(self) -> TeacherSpec:
        """How to load the teacher."""
        dense = (self.dense_size, self.dense_features, self.precision)
        masks = None
        if self.mask_teacher is not None:
            masks = TeacherSpec(self.mask_teacher, self.mask_pretrained, *dense)
        return TeacherSpec(self.teacher, self.pretrained, *dense, mask_teacher=masks)

    def stage(self, name: str) -> Stage:
        """A stage with the settings of this request."""
        settings: StageSettings | None = getattr(self, name, None)
        return known()[name](settings)

    def require_effect(self, said: Mapping[str, Any]) -> None:
        """Refuse what a user says that a stage of the cache would not look at.

        Args:
            said: nested settings, without defaults.

        Raises:
            ConfigError: names the first of them.
        """
        for name in self.asked():
            self.stage(name).require_effect(said)

    @property
    def folders(self) -> dict[str, Path]:
        """Where what stages import lies, by stage."""
        stages = ((name, self.stage(name).folder) for name in self.asked())
        return {name: folder.absolute() for name, folder in stages if folder is not None}

    def stage_names(self, source: SplitInfo) -> tuple[str, ...]:
        """The stages that this request makes of a data set, in order.

        Raises:
            ConfigError: one of them does not exist.
        """
        return tuple(name for name in self.asked() if self.stage(name).wanted(source))

    def asked(self) -> tuple[str, ...]:
        """The stages that are asked for, in order, whether or not the data set has anything for them.

        Raises:
            ConfigError: one of them does not exist.
        """
        default = (name for name, stage in known().items() if stage.default)
        return closed(self.stages if self.stages is not None else default)

    def with_stages_of(self, manifest: Manifest) -> BuildRequest:
        """This request, and the stages that a cache holds beyond it, as they were asked for there.

        Raises:
            ConfigError: one of these was imported, and nothing says from where; or nothing here knows it.
        """
        own = self.asked()
        further = tuple(name for name in manifest.stage_names if name not in own)
        foreign = next((name for name in further if manifest.stage(name).given), None)
        if foreign is not None:
            raise ConfigError(
                f"The stage {foreign} of the cache was imported, and this request does not say from where.",
                f"Repeat its folder or file beside --stage {foreign}, or choose another --out.",
            )
        recorded = recorded_request(manifest)
        fields = type(recorded).model_fields
        keys = [name for name in further if name in fields]
        looked_at = (key for name in further for key in known()[name].of_teacher)
        keys += [key for key in looked_at if getattr(self, key) == fields[key].default]
        values = {key: getattr(recorded, key) for key in keys}
        return self.model_copy(update={"stages": (*own, *further), **values})


def request_model() -> type[BuildRequest]:
    """The model of requests with a group of settings for every stage that is known by now."""
    return _model(tuple(known().items()))


@cache
def _model(stages: tuple[tuple[str, type[Stage]], ...]) -> type[BuildRequest]:
    groups: dict[str, Any] = {
        name: (stage.Settings, stage.Settings())
        for name, stage in stages
        if stage.Settings is not StageSettings
    }
    return create_model("BuildRequest", __base__=BuildRequest, **groups)


def build_request(**values: Any) -> BuildRequest:
    """A request with these values, nested ones as models or mappings.

    Raises:
        pydantic.ValidationError: one does not fit.
    """
    return request_model()(**values)


def recorded_request(manifest: Manifest) -> BuildRequest:
    """The request that made a cache, as far as the manifest tells: what came from outside is lost, and of a teacher's
    folder or file it knows the name only."""
    info, masks = manifest.teacher, manifest.teacher.mask_teacher
    stages = recorded_stages(manifest)
    groups = {n: s.settings for n, s in stages.items() if s.Settings is not StageSettings}
    return build_request(
        **groups,
        stages=tuple(stages),
        teacher=info.name,
        pretrained=recorded_weights(info),
        mask_teacher=masks and masks.name,
        mask_pretrained=masks and recorded_weights(masks),
        dense_size=info.dense_size,
        dense_features=info.dense_features,
        precision=info.precision,
        batch_size=info.batch_size,
        view_size=manifest.view_size,
        block_rows=manifest.block_rows,
        seed=manifest.seed,
        limit=manifest.rows,
    )


def make_manifest(
    source: SplitInfo,
    request: BuildRequest,
    parts: Sequence[Part],
    teacher: TeacherInfo,
    base: Manifest | None = None,
) -> Manifest:
    """Describe the cache that this request makes of these images of this source.

    Args:
        source: the data set split.
        request: what is asked for.
        parts: its images; see `Rows`.
        teacher: facts about the teacher.
        base: of the cache that this one is derived from.

    Raises:
        ConfigError: settings that do not fit the data set, the teacher or each other.
    """
    names = request.stage_names(source)
    run = {"precision": request.precision, "batch_size": request.batch_size}
    teacher = teacher.model_copy(update=run)
    # What no label map says is annotated nowhere.
    annotated = any(request.stage(name).annotates for name in names)
    unseen = tuple(source.unseen if annotated else range(len(source.classes)))
    outline = Outline(source, teacher, request.view_size, request.block_rows, names, base)
    imported = tuple(name for name in names if request.stage(name).brings(outline))
    outline = replace(outline, imported=imported, unseen=unseen)
    return Manifest(
        dataset=source.name,
        split=source.split,
        parts=tuple(parts),
        classes=tuple(source.classes),
        unseen=unseen,
        block_rows=request.block_rows,
        seed=request.seed,
        view_size=request.view_size,
        teacher=teacher,
        stages=tuple(request.stage(name).record(outline) for name in names),
    )
