"""Invariant: what a command computes is decided by one frozen model; its help is the model's own words.

What a call may do and where its results go (--allow-code, --out, --overwrite, --json) is no setting.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import typer
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from c2s.class_list import FILE, Names, class_list
from c2s.cli.lists import numbers
from c2s_cache.errors import ConfigError

SettingsT = TypeVar("SettingsT", bound=BaseModel)
Mode = Literal["slide", "whole"]
Background = Literal["own", "ignored", "threshold"]
Synonyms = Literal["max", "mean"]
NAMES = (
    'class names, several of one separated by |, e.g. "cat | kitten, sofa, grass", one with a comma in "", also '
    "one a line; or @FILE that holds such a list, or one in YAML or JSON"
)


def _offsets(value: Any) -> Any:
    return numbers(value, "--seen-offset") if isinstance(value, str) else value


def _thresholds(value: Any) -> Any:
    return numbers(value, "--background-threshold") if isinstance(value, str) else value


def _names(value: Any) -> Any:
    return None if value is None else class_list(value, "--classes")


ModeField = Annotated[Mode, Field(description="sliding window, or whole images")]
DeviceField = Annotated[str, Field(description="where to compute: auto, cpu, cuda, cuda:1, ...")]
FramesField = Annotated[
    int,
    Field(
        ge=1,
        description="frames of a clip that a student with queries (GKC's) looks at together, so that a query follows "
        "a thing; 1: each alone",
    ),
]
SynonymsField = Annotated[
    Synonyms,
    Field(
        description="of a class with several names: its best name counts, or the mean of their embeddings"
    ),
]


ClassesField = Annotated[Names | None, BeforeValidator(_names)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    run: Path = Field(description="run folder")


class _Words(_Settings, ABC):
    """Of commands that may ask the teacher's text tower for names that the run does not know."""

    teacher_weights: str | None = Field(
        default=None,
        description="where the teacher's weights are, for names that the run does not know: a checkpoint file or "
        "local-dir:FOLDER [default: where they were when the cache was built, or as the teacher's name says]",
    )

    @model_validator(mode="after")
    def _act(self) -> Self:
        if self.teacher_weights is not None and not self.names():
            raise ValueError(
                "teacher_weights has no effect where the teacher is asked for no names"
            )
        return self

    @abstractmethod
    def names(self) -> bool:
        """Whether there are names that the teacher may be asked for."""


class EvalConfig(_Words):
    """Of `c2s eval`."""

    def names(self) -> bool:
        """See `_Words`."""
        return self.vocabulary == "names" or str(self.vocabulary).startswith(FILE)

    dataset: str = Field(description="data set: see c2s data list")
    root: Path | None = Field(
        default=None, description="folder of the data set, or the one that holds it [C2S_DATA]"
    )
    split: str = Field(default="val", description="split to evaluate on")
    mode: ModeField = "slide"
    frames: FramesField = 1
    seen_offset: Annotated[tuple[float, ...] | None, BeforeValidator(_offsets)] = Field(
        default=None,
        min_length=1,
        description="calibration: subtracted from the scores of seen classes. Several values (0,0.02,0.05 or "
        "0:0.1:0.02) are scored from one pass; the first is the result, the others stand beside it. "
        "Choose on another split than the one you report [default: the method's own; on other classes than the "
        "run's 0]",
    )
    vocabulary: str | None = Field(
        default=None,
        description="where text embeddings of another data set's classes come from: a cache of it, a .npy "
        "file in class order, 'names' (by the teacher's text tower, c2s[build]), or @FILE with a list of the "
        "names of each class",
    )
    synonyms: SynonymsField = "max"
    background: Background = Field(
        default="own",
        description="a background class counts as a class of its own, is left out, or is where no other class reaches "
        "--background-threshold",
    )
    background_threshold: Annotated[tuple[float, ...] | None, BeforeValidator(_thresholds)] = Field(
        default=None,
        min_length=1,
        description="with --background threshold: of the best score (a probability, of a student that groups; a "
        "cosine, of one of features). Several values are scored from one pass; the first is the result [default: the "
        "method's for the data set]",
    )

    @model_validator(mode="after")
    def _threshold(self) -> Self:
        if self.background_threshold is not None and self.background != "threshold":
            raise ValueError("background_threshold has no effect without background=threshold")
        return self

    folded: bool = Field(
        default=False, description="score the model that c2s fold makes of the run"
    )
    limit: int | None = Field(default=None, gt=0, description="only the first N images")
    device: DeviceField = "auto"


class PredictConfig(_Words):
    """Of `c2s predict`."""

    def names(self) -> bool:
        """See `_Words`."""
        return self.classes is not None

    run: Path = Field(description="run folder, or that of a folded model")
    classes: ClassesField = Field(
        default=None, description=f"{NAMES} [default: the run's]. A folded model has its own"
    )
    synonyms: SynonymsField = "max"
    mode: ModeField = "slide"
    frames: FramesField = 1
    device: DeviceField = "auto"


class FoldConfig(_Words):
    """Of `c2s fold`."""

    def names(self) -> bool:
        """See `_Words`."""
        return self.classes is not None and self.vocabulary is None

    classes: ClassesField = Field(
        default=None,
        description=f"{NAMES} [default: the run's]; of several names the mean embedding is folded",
    )
    vocabulary: Path | None = Field(
        default=None,
        description="classes and text embeddings of a cache, or embeddings of a .npy file in the order of "
        "--classes",
    )
    license: str | None = Field(
        default=None,
        pattern=r"^[\w.+-]+$",
        description="licence for the model card [default: apache-2.0, or other if training started from "
        "weights that do not come with c2s]",
    )
    export: bool = Field(default=False, description="also write model.pt2, a torch.export program")


def option(model: type[BaseModel], field: str, *names: str) -> Any:
    """A command-line option for a field of settings: its help is the field's description and default."""
    info = model.model_fields[field]
    text = str(info.description)
    if not info.is_required() and info.default not in (None, False):
        shown = (
            ",".join(map("{:g}".format, info.default))
            if isinstance(info.default, tuple)
            else info.default
        )
        text += f" [default: {shown}]"
    return typer.Option(*names, help=f"{text[0].upper()}{text[1:]}.")


ConfigOption = Annotated[Path | None, typer.Option(help="YAML file of settings.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="key=value, above the file of settings.")
]


def settled(
    model: type[SettingsT],
    config: Path | None,
    assignments: Sequence[str] | None,
    given: Mapping[str, Any],
) -> SettingsT:
    """Settings of a command from a file, above it --set, above it options.

    Args:
        model: the command's.
        config, assignments: `--config` and `--set`.
        given: parameters of the command; those that are fields of the model are its options.

    Raises:
        ConfigError: one is missing, said twice, unknown or wrong.
    """
    from c2s.config import require_said_once, resolve

    options = {name: given.get(name, given.get(f"{name}_")) for name in model.model_fields}
    assigned = assignments or ()
    require_said_once(assigned, options)
    if config is None:
        keys = {assignment.partition("=")[0].strip() for assignment in assigned}
        for name, info in model.model_fields.items():
            if info.is_required() and options[name] is None and name not in keys:
                raise ConfigError(f"Missing option '--{name}'.")
    return resolve(model, {}, config, assigned, options)
