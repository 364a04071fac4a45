"""Invariant: `c2s cache build` and `c2s cache plan` make the same request of the same options."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from c2s.cli.cache_options import (
    ConfigOption,
    DatasetOption,
    DenseSizeOption,
    PretrainedOption,
    RootOption,
    SetOption,
    SplitFileOption,
    StageOption,
    TeacherOption,
    stage_settings,
)
from c2s_cache.errors import ConfigError

if TYPE_CHECKING:
    from c2s.datasets.split import Split
    from c2s_pipeline.build.request import BuildRequest


class Asked(NamedTuple):
    """The data set's split, the request, and where its cache lies by default."""

    source: Split
    request: BuildRequest
    usual: Path


def cache_request(
    dataset: DatasetOption,
    root: RootOption = None,
    teacher: TeacherOption = None,
    pretrained: PretrainedOption = None,
    mask_teacher: Annotated[
        str | None,
        typer.Option(
            help="Another teacher, whose dense features masks are made of; it needs no text tower "
            "[default: --teacher]."
        ),
    ] = None,
    mask_pretrained: Annotated[
        str | None, typer.Option(help="Weight tag or file of --mask-teacher.")
    ] = None,
    dense_size: DenseSizeOption = None,
    dense_features: Annotated[
        str | None,
        typer.Option(
            help="Tokens that are clustered: plain, pooled, unprojected, penultimate, mid, value, maskclip, qq, kk, "
            "vv, qq-kk or neighbour [default: plain, the paper's]."
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Method whose stages are built; may be given several times [default: clip-to-seg]."
        ),
    ] = None,
    stage: StageOption = None,
    no_labels: Annotated[
        bool,
        typer.Option(
            "--no-labels",
            help="Take the data set as photos alone: no label map is read, and every class counts as unseen.",
        ),
    ] = False,
    split: Annotated[str, typer.Option(help="Split to build from.")] = "train",
    split_file: SplitFileOption = None,
    limit: Annotated[int | None, typer.Option(help="Only so many images of the split.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per teacher pass.")] = None,
    block_rows: Annotated[int | None, typer.Option(help="Images per block.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Named settings of the method below --config and --set, such as paper or best."
        ),
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    **of_stages: Any,
) -> Asked:
    """What is asked for; `of_stages` are `stage_parameters`, and None leaves what is below.

    Raises:
        ConfigError: an option that has no effect, or that the request refuses.
        MissingExtra: of the libraries that a build needs, one is not installed.
        DataError: see `load_dataset`.
    """
    from c2s.config import gathered, merge, require_said_once, resolve
    from c2s.datasets import load_dataset
    from c2s.methods.recipes import load_recipe
    from c2s.methods.registry import DEFAULT, stages_of
    from c2s.shapes.defaults import build_defaults
    from c2s_cache.label_map import label_type
    from c2s_pipeline.extras import require

    options: dict[str, Any] = {
        "teacher": teacher,
        "pretrained": pretrained,
        "mask_teacher": mask_teacher,
        "mask_pretrained": mask_pretrained,
        "dense_size": dense_size,
        "dense_features": dense_features,
        "limit": limit,
        "batch_size": batch_size,
        "block_rows": block_rows,
        **stage_settings(of_stages),
    }
    require_said_once(set_ or (), options)
    data = load_dataset(dataset, root, split_file)
    if root is not None and data.root is None:
        raise ConfigError(
            f"--root has no effect: {dataset} is drawn on demand and lies in no folder."
        )
    if label_type(len(data.classes)) != "uint8":
        raise ConfigError(
            f"{dataset} has {len(data.classes):,} classes; a cache holds label maps of at most 254.",
            "Score on it what was trained on another: c2s eval --run RUN --dataset DATASET --vocabulary names",
        )
    source = data.split(split)
    require("open_clip", "build")
    require("distributed", "build")
    from c2s_pipeline.build.request import request_model
    from c2s_pipeline.stages.registry import closed, known, name_of

    methods = method or (DEFAULT,)
    defaults = {"view_size": data.protocol.view_size, **build_defaults(dataset, teacher)}
    for name in methods:
        defaults = merge(defaults, load_recipe(recipe, name).build)
    wanted = (*stages_of(methods), *(name_of(reference) for reference in stage or ()))
    if no_labels:
        wanted = tuple(name for name in wanted if not known()[name].annotates)
        if any(known()[name].annotates for name in closed(wanted)):
            raise ConfigError("--no-labels: a stage that was asked for is made of label maps.")
        if split_file is not None:
            raise ConfigError("--split-file has no effect beside --no-labels: no class is seen.")
    options["stages"] = tuple(dict.fromkeys(wanted))
    request = resolve(request_model(), defaults, config, set_ or (), options)
    request.require_effect(gathered({}, config, set_ or (), options))
    for name in map(name_of, stage or ()):
        if not request.stage(name).wanted(source):
            raise ConfigError(
                f"--stage {name}: {source.name} has nothing for it, or these settings leave it out."
            )
    return Asked(source, request, Path("cache") / f"{data.short}.zarr")
