"""`c2s cache`: build, plan, inspect and verify teacher caches."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from c2s.cli.cache_options import (
    AddressArgument,
    AppendOption,
    ConfigOption,
    JsonOption,
    MovedMaskTeacherOption,
    MovedPretrainedOption,
    MovedTeacherOption,
    OutOption,
    OwnStageOption,
    PathArgument,
    RootOption,
    SchedulerOption,
    SetOption,
    SplitFileOption,
    StageOption,
    WorkersOption,
    check_machine,
    local_path,
    request_parameters,
    stage_parameters,
    stage_settings,
    taking,
)
from c2s.cli.cache_request import cache_request
from c2s_cache.errors import ConfigError, MissingExtra

app = typer.Typer(help="Build, inspect and verify teacher caches.", no_args_is_help=True)

SAMPLE = 8
"""Rows of a cache that a teacher looks at again."""
NO_TEACHER = "Or check all that needs no teacher: c2s cache verify --quick"


@app.command()
@taking(request_parameters(cache_request))
def build(
    out: OutOption = None,
    workers: WorkersOption = None,
    update: Annotated[
        bool,
        typer.Option(
            "--update",
            help="Change a cache in place: add what is asked for, and compute anew what depends on a changed setting; "
            "stages that it has beyond stay.",
        ),
    ] = False,
    append: AppendOption = False,
    scheduler: SchedulerOption = None,
    json_: JsonOption = False,
    **asked: Any,
) -> None:
    """Build the teacher cache of a data set, or resume a build where it stopped."""
    check_machine(workers, scheduler)
    from c2s.cli.build_report import report_build
    from c2s.datasets.folder import FolderSplit
    from c2s.datasets.outside import outside_splits
    from c2s.terminal import BuildBar

    source, request, usual = cache_request(**asked)
    from c2s_cache.manifest_file import read_manifest
    from c2s_pipeline.build.builder import build as run

    place = out or usual
    if update and (place / "zarr.json").is_file() and not asked.get("no_labels"):
        request = request.with_stages_of(read_manifest(place))
    with BuildBar() as bar:
        report = run(source, request, place, workers, bar, scheduler, update, append)
    report_build(report, json_, asked.get("recipe"))
    outside = outside_splits(source) if isinstance(source, FolderSplit) else []
    for note in filter(None, (source.passed_over, *outside)):
        typer.echo(f"note: {note}", err=True)


@app.command()
@taking(stage_parameters())
def derive(
    path: PathArgument,
    out: Annotated[Path, typer.Option(parser=local_path, metavar="PATH", help="The new cache.")],
    set_: SetOption = None,
    config: ConfigOption = None,
    split_file: SplitFileOption = None,
    root: RootOption = None,
    stage: StageOption = None,
    teacher: MovedTeacherOption = None,
    pretrained: MovedPretrainedOption = None,
    mask_teacher: MovedMaskTeacherOption = None,
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
    json_: JsonOption = False,
    **of_stages: Any,
) -> None:
    """Make a cache that differs from another in some settings; what these do not touch is shared.

    The images come from the cache itself; only --split-file needs the data set.
    """
    check_machine(workers, scheduler)
    from c2s.cli.build_report import report_build
    from c2s.config import require_said_once, resolve
    from c2s.datasets import load_dataset
    from c2s.shapes.defaults import own_mask_teacher, own_teacher
    from c2s.terminal import BuildBar
    from c2s_cache import open_cache
    from c2s_pipeline.extras import require

    require("open_clip", "build")
    require("distributed", "build")

    from c2s_pipeline.build.derive import derive as run
    from c2s_pipeline.build.request import recorded_request, request_model
    from c2s_pipeline.build.resources import Resources
    from c2s_pipeline.stages.registry import name_of

    if root is not None and split_file is None:
        raise ConfigError("--root has no effect without --split-file: images come from the cache.")
    base = open_cache(path).manifest
    labelled = None
    if split_file is not None:
        labelled = load_dataset(base.dataset, root, split_file).split(base.split)
    groups = stage_settings(of_stages)
    options = {
        "teacher": teacher,
        "pretrained": pretrained,
        "mask_teacher": mask_teacher,
        **groups,
    }
    require_said_once(set_ or (), options)
    options["teacher"] = teacher or own_teacher(base.teacher.name)
    options["mask_teacher"] = mask_teacher or own_mask_teacher(base.teacher)
    further = [name_of(reference) for reference in stage or ()]  # before any is looked up
    recorded = recorded_request(base).model_dump()
    for given, key in ((teacher, ""), (mask_teacher, "mask_")):
        if given not in (None, recorded[f"{key}teacher"]):
            recorded[f"{key}pretrained"] = None  # the recorded weights are another teacher's
    recorded["stages"] = (*recorded["stages"], *groups, *further)
    request = resolve(request_model(), recorded, config, set_ or (), options)
    with BuildBar() as bar:
        resources = Resources(workers, scheduler, bar)
        report = run(path, request, out, resources, labelled, teacher, mask_teacher)
    report_build(report, json_)


@app.command()
def info(
    path: AddressArgument,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="python:MODULE:CLASS of a method that no package brings: can the cache train it? May be given "
            "several times."
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Show what a cache holds, whether it is complete, and which methods can train from it."""
    from c2s.cli.cache_report import describe, print_report

    facts = describe(path, method or ())
    if json_:
        typer.echo(json.dumps(facts))
    else:
        print_report(facts)


@app.command()
def verify(
    path: AddressArgument,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Without a teacher: structure, checksums, leakage, pairing."),
    ] = False,
    sample: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"Rows that the teacher looks at again, drawn at random. [default: {SAMPLE}]",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of that draw. [default: 0]")] = None,
    stage: OwnStageOption = None,
    teacher: MovedTeacherOption = None,
    pretrained: MovedPretrainedOption = None,
    mask_teacher: MovedMaskTeacherOption = None,
    json_: JsonOption = False,
) -> None:
    """Check a cache; exit code 0 only if it is whole and sound.

    Every byte is read: structure, receipts, checksums, label leakage, image digests. Then, without
    --quick, the teacher runs again on some rows, and its tokens and grids must be those stored.
    """
    of_teacher = (sample, seed, teacher, pretrained, mask_teacher)
    if quick and any(option is not None for option in of_teacher):
        raise ConfigError(
            "--quick needs no teacher, so --sample, --seed, --teacher, --pretrained and --mask-teacher cannot act.",
            "Leave out either.",
        )
    from c2s.cli.verify_report import report_findings
    from c2s.terminal import bar
    from c2s_cache import Cache
    from c2s_cache.integrity import verify as run
    from c2s_pipeline.build.verify import content
    from c2s_pipeline.stages.registry import name_of

    for reference in stage or ():
        name_of(reference)
    cache = Cache(path)
    with bar("verify", cache.blocks, "blocks") as advance:
        findings = run(cache, content(cache), lambda done, total: advance(1))
    live = None
    if not quick and not findings:
        live = _spot_check(cache, sample or SAMPLE, seed or 0, teacher, pretrained, mask_teacher)
        findings += live.findings
    report_findings(cache, findings, live, json_)
    if findings:
        sys.exit(1)


def _spot_check(
    cache: Any,
    sample: int,
    seed: int,
    teacher: str | None,
    pretrained: str | None,
    mask_teacher: str | None,
) -> Any:
    from c2s.shapes.defaults import own_mask_teacher, own_teacher
    from c2s.terminal import bar
    from c2s_pipeline.extras import require

    try:
        require("open_clip", "build")
    except MissingExtra as error:
        raise MissingExtra(f"{error.what} {error.hint}", NO_TEACHER) from error
    from c2s_pipeline.build.verify import sample_rows, spot_check
    from c2s_pipeline.teachers.recorded import load_recorded, recorded_spec

    m = cache.manifest
    found = teacher or (own_teacher(m.teacher.name) if pretrained is None else None)
    masks = mask_teacher or own_mask_teacher(m.teacher)
    model = load_recorded(m, recorded_spec(m, found, pretrained, masks), NO_TEACHER)
    rows = sample_rows(cache, sample, seed)
    with bar("teacher", len(rows), "rows") as advance:
        return spot_check(cache, model, rows, advance)


@app.command()
@taking(request_parameters(cache_request))
def plan(
    out: OutOption = None,
    workers: WorkersOption = None,
    append: AppendOption = False,
    sample: Annotated[int, typer.Option(min=1, help="Images that are tried.")] = 8,
    json_: JsonOption = False,
    **asked: Any,
) -> None:
    """Project hours, disk and memory of a build, stage by stage, from a trial of a few images.

    Hours are an estimate for the machine as it is now; disk is an upper bound. It takes what the build will be
    given. Exit code 1 if it does not fit on this machine.
    """
    from c2s.cli.plan_report import report_plan
    from c2s.terminal import bar

    source, request, usual = cache_request(**asked)
    from c2s_pipeline.build.plan import plan_build

    place = out or usual
    with bar("trial", sample, "images") as advance:
        found = plan_build(source, request, sample, workers, advance, place if append else None)
    report_plan(found, place, json_)
