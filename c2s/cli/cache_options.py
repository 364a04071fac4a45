"""Options that several `c2s cache` commands share; those of stages are what their settings say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic.fields import FieldInfo

from c2s_cache.errors import ConfigError
from c2s_pipeline.stages.registry import own

CommandT = TypeVar("CommandT", bound=Callable[..., None])


def local_path(value: str) -> Path:
    """A folder of this machine that a cache is written to.

    Raises:
        ConfigError: nothing, or the URL of a store.
    """
    if not value:
        raise ConfigError("--out is empty.", "Name the folder of the cache.")
    if "://" in value:
        raise ConfigError(
            f"--out {value}: a cache is built on a local disk.",
            "Build it there and copy the finished folder: readers open it by its URL.",
        )
    return Path(value)


def check_machine(workers: int | None, scheduler: str | None) -> None:
    """Refuse to count workers that another started.

    Raises:
        ConfigError: both are given.
    """
    if workers is not None and scheduler is not None:
        raise ConfigError(
            "--workers has no effect beside --scheduler, whose workers are there already."
        )


DatasetOption = Annotated[
    str, typer.Option(help="Data set (see c2s data list), or your own folder with a classes.yaml.")
]
SplitFileOption = Annotated[
    Path | None, typer.Option(help="YAML file with `unseen:`, class names or ids.")
]
RootOption = Annotated[
    Path | None, typer.Option(help="Folder of the data set, or the one that holds it [C2S_DATA].")
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        parser=local_path,
        metavar="PATH",
        help="Cache directory [default: cache/NAME.zarr, by the data set].",
    ),
]
StageOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Further stage to build: a name, or python:MODULE:CLASS; may be given several times."
    ),
]
OwnStageOption = Annotated[
    list[str] | None,
    typer.Option(
        "--stage",
        help="python:MODULE:CLASS of a stage that no package brings; may be given several times.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
ConfigOption = Annotated[Path | None, typer.Option(help="YAML file of settings.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="key=value, e.g. masks.threshold=0.8.")
]
WorkersOption = Annotated[
    int | None,
    typer.Option(min=1, max=1024, help="Worker processes [default: one per GPU, else 1]."),
]
SchedulerOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Running Dask scheduler whose workers see the same paths, e.g. tcp://host:8786.",
    ),
]
AddressArgument = Annotated[
    str, typer.Argument(help="Cache: directory, or URL such as s3://bucket/coco.zarr.")
]
PathArgument = Annotated[Path, typer.Argument(help="Cache directory.")]
TeacherOption = Annotated[
    str | None,
    typer.Option(
        help="open_clip model, such as ViT-B-16 or RN50, local-dir:FOLDER, or hf:OWNER/NAME [default: ViT-B-16]."
    ),
]
PretrainedOption = Annotated[
    str | None,
    typer.Option(
        help="Weight tag, file (a checkpoint, or OpenAI's archive), or 'random'; not for a local-dir "
        "[default: openai]."
    ),
]
DenseSizeOption = Annotated[
    int | None, typer.Option(help="Input side of the dense pass [default: the native size].")
]
MovedMaskTeacherOption = Annotated[
    str | None,
    typer.Option(
        "--mask-teacher", help="The mask teacher of the cache, if it is not where it was."
    ),
]
MovedTeacherOption = Annotated[
    str | None,
    typer.Option("--teacher", help="open_clip model or local-dir, if it is not where it was."),
]
MovedPretrainedOption = Annotated[
    str | None, typer.Option("--pretrained", help="Weight tag or file, if it is not where it was.")
]
AppendOption = Annotated[
    bool,
    typer.Option(
        "--append",
        help="Add the images that came to the data set since, in blocks of their own; what is there stays as it is.",
    ),
]


@cache
def _stage_settings() -> Mapping[str, tuple[str, str, str, FieldInfo]]:
    """Settings of stages with an option of their own: by parameter, that option, stage, key and field."""
    found = {}
    for stage in own():
        for key, field in stage.Settings.model_fields.items():
            facts = field.json_schema_extra
            if isinstance(facts, dict) and (name := str(facts.get("option", ""))):
                parameter = name.removeprefix("--").replace("-", "_")
                found[parameter] = (name, stage.name, key, field)
    return found


def stage_parameters() -> Iterator[Parameter]:
    """Parameters of a command, the options of stages."""
    for parameter, (name, _, _, field) in _stage_settings().items():
        default: Any = None
        kind: Any = field.annotation
        if isinstance(field.default, bool):
            kind, default = bool, False
        elif kind is not int and kind != Path | None:
            kind = str  # whatever it may be, the model reads it
        said = "" if field.default is None or kind is bool else f" [default: {field.default}]"
        info = typer.Option(name, help=f"{field.description}{said}.")
        annotation: Any = Annotated[kind if kind is bool else kind | None, info]
        yield Parameter(parameter, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def stage_settings(options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings by stage of those `stage_parameters` that are given."""
    groups: dict[str, dict[str, Any]] = {}
    for parameter, (_, stage, key, field) in _stage_settings().items():
        value = options.get(parameter)
        if isinstance(field.default, bool):
            value = not field.default if value else None
        if value is not None:
            groups.setdefault(stage, {})[key] = value
    return groups


def request_parameters(request: Callable[..., Any]) -> Iterator[Parameter]:
    """Parameters of a command: those of `cache_request`, then those of stages."""
    for parameter in signature(request, eval_str=True).parameters.values():
        if parameter.kind is not Parameter.VAR_KEYWORD:
            yield parameter.replace(kind=Parameter.KEYWORD_ONLY)
    yield from stage_parameters()


def taking(parameters: Iterator[Parameter]) -> Callable[[CommandT], CommandT]:
    """Let a command `(own parameters, **options)` have these in place of the latter."""

    def give(command: CommandT) -> CommandT:
        own_ones = [
            parameter.replace(kind=Parameter.KEYWORD_ONLY)
            for parameter in signature(command, eval_str=True).parameters.values()
            if parameter.kind is not Parameter.VAR_KEYWORD
        ]
        every = (*parameters, *own_ones)
        command.__signature__ = Signature(every)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in every}
        return command

    return give
