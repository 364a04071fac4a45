"""`c2s masks`: how good pseudo masks are before any training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from c2s.cli.cache_options import (
    DatasetOption,
    DenseSizeOption,
    JsonOption,
    PretrainedOption,
    RootOption,
    SplitFileOption,
    TeacherOption,
)
from c2s.cli.lists import listed
from c2s.config import resolve
from c2s_cache.errors import ConfigError
from c2s_cache.pseudo_mask import MIN_AREA

if TYPE_CHECKING:
    from c2s_pipeline.build.request import BuildRequest
    from c2s_pipeline.source import ImageSource

app = typer.Typer(help="Score the pseudo masks that clustering makes.", no_args_is_help=True)

THRESHOLDS = "0.5,0.6,0.7,0.8,0.85,0.9,0.95"
SUFFIXES = (".json", ".csv", ".png", ".pdf", ".svg")


@app.callback()
def _group() -> None:
    pass


@app.command()
def score(
    dataset: DatasetOption,
    root: RootOption = None,
    split: Annotated[
        str, typer.Option(help="Split whose images and true labels are used.")
    ] = "train",
    split_file: SplitFileOption = None,
    cache: Annotated[
        list[Path] | None,
        typer.Option(
            help="Score the masks of this cache, without a teacher: those it holds or, where settings are given, those "
            "that they make of the dense features it holds. Repeat it for caches of other dense features."
        ),
    ] = None,
    teacher: TeacherOption = None,
    pretrained: PretrainedOption = None,
    dense_size: DenseSizeOption = None,
    dense_features: Annotated[
        str | None,
        typer.Option(
            help="Tokens that are clustered, e.g. plain,value,neighbour [default: plain]."
        ),
    ] = None,
    thresholds: Annotated[
        str | None, typer.Option(help=f"Merging thresholds lambda [default: {THRESHOLDS}].")
    ] = None,
    windows: Annotated[
        str | None, typer.Option(help="Window sets, e.g. 3+7,3,7 [default: 3+7].")
    ] = None,
    iterations: Annotated[
        str | None, typer.Option(help="Caps on the K-means iterations, e.g. 5,10 [default: 10].")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N images.")] = None,
    min_area: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Smallest mask that is scored, as a fraction of the view: smaller ones get no token.",
        ),
    ] = MIN_AREA,
    config: Annotated[Path | None, typer.Option(help="YAML file of build settings.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, e.g. masks.unit_norm=true.")
    ] = None,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            help="Also write the result there: .json, .csv, or a plot as .png, .pdf, .svg."
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Best IoU of a latent mask with each true mask (Table XIII), for every combination of settings.

    Unseen: unseen labels are hidden, as in a build; seen: those of seen classes instead; all: every
    label. The true labels are read, so this is for choosing settings, never for training.
    """
    from c2s.cli.folders import check_file
    from c2s.cli.masks_report import PAPER, score_table, write_scores
    from c2s.datasets import load_dataset
    from c2s.shapes.defaults import build_defaults
    from c2s_pipeline.build.request import request_model

    for file in out or ():
        if file.suffix not in SUFFIXES:
            raise ConfigError(f"--out {file} must end in one of {', '.join(SUFFIXES)}.")
        check_file(file)
    source = load_dataset(dataset, root, split_file).split(split)
    swept: dict[str, list[Any]] = {
        "windows": listed(windows, "--windows", _window_set),
        "iterations": listed(iterations, "--iterations", int),
        "threshold": listed(thresholds, "--thresholds", float),
    }
    options = {
        "teacher": teacher,
        "pretrained": pretrained,
        "dense_size": dense_size,
        "dense_features": dense_features,
    }
    if cache:
        given = [f"--{k.replace('_', '-')}" for k, value in options.items() if value is not None]
        if given:
            raise ConfigError(
                f"--cache scores masks of the dense features that a cache holds, so {', '.join(given)} cannot act.",
                "For other dense features derive a cache of them, and give --cache twice: "
                f"c2s cache derive {cache[0]} --out NEW --set dense_features=value",
            )
        rows = _of_caches(cache, source, swept, limit, min_area, config, set_ or ())
    else:
        defaults = build_defaults(dataset, teacher)
        requests = [
            resolve(
                request_model(),
                defaults,
                config,
                set_ or (),
                {**options, "dense_features": features.strip()},
            )
            for features in (dense_features or "plain").split(",")
        ]
        swept["threshold"] = swept["threshold"] or listed(THRESHOLDS, "--thresholds", float)
        rows = _of_teachers(requests, source, swept, limit, min_area)
    facts = {"dataset": dataset, "split": split, "rows": rows, "paper": PAPER}
    for file in out or ():
        write_scores(file, facts)
    if json_:
        typer.echo(json.dumps(facts))
    else:
        from c2s.terminal import print_table

        print_table(score_table(facts))


def _of_caches(
    paths: Sequence[Path],
    source: ImageSource,
    swept: Mapping[str, Sequence[Any]],
    limit: int | None,
    min_area: float,
    config: Path | None,
    changes: Sequence[str],
) -> list[dict[str, Any]]:
    """Scores of the masks that caches hold or, where anything is said about them, of those that it makes."""
    from c2s.terminal import bar
    from c2s_cache import open_cache
    from c2s_pipeline.build.request import request_model
    from c2s_pipeline.clustering.kmeans import create_backend
    from c2s_pipeline.mask_quality import score_cache, score_settings
    from c2s_pipeline.mask_views import cached_views
    from c2s_pipeline.stages.registry import recorded_stages

    caches = [open_cache(path, ("masks",)) for path in paths]
    sizes = [(min(limit or c.manifest.rows, c.manifest.rows), c.manifest.views) for c in caches]
    rows = []
    with bar("scoring", sum(images * views for images, views in sizes), "views") as advance:
        for path, cache in zip(paths, caches, strict=True):
            if not any((*swept.values(), limit, config, changes)):
                found = [score_cache(cache, source, min_area, advance)]
            else:
                recorded = recorded_stages(cache.manifest)["masks"].settings.model_dump()
                request = resolve(request_model(), {"masks": recorded}, config, changes, {})
                masks = request.stage("masks").settings
                found = score_settings(
                    cached_views(cache, source, limit),
                    source,
                    cache.manifest.teacher,
                    _settings(masks, swept),
                    create_backend(masks.backend),
                    ("unseen",),
                    min_area,
                    advance,
                )
            rows += [{"cache": str(path), **score.as_dict()} for score in found]
    return rows


def _of_teachers(
    requests: Sequence[BuildRequest],
    source: ImageSource,
    swept: Mapping[str, Sequence[Any]],
    limit: int | None,
    min_area: float,
) -> list[dict[str, Any]]:
    """Scores of the masks that builds would make."""
    from c2s.terminal import bar
    from c2s_pipeline.build.builder import load_teacher
    from c2s_pipeline.clustering.kmeans import create_backend
    from c2s_pipeline.mask_quality import score_settings
    from c2s_pipeline.mask_views import teacher_views

    rows = []
    with bar("scoring", len(source.ids[:limit]) * len(requests), "images") as advance:
        for request in requests:
            teacher, _ = load_teacher(request)
            masks = request.stage("masks").settings
            found = score_settings(
                teacher_views(source, teacher, limit, request.batch_size),
                source,
                teacher.info(),
                _settings(masks, swept),
                create_backend(masks.backend, teacher.device),
                min_area=min_area,
                advance=advance,
            )
            rows += [score.as_dict() for score in found]
    return rows


def _settings(masks: Any, swept: Mapping[str, Sequence[Any]]) -> list[Any]:
    """Every combination of the values of some settings, the others as they are."""
    keys = [key for key, values in swept.items() if values]
    combinations = product(*(swept[key] for key in keys))
    return [
        resolve(type(masks), masks.model_dump(), None, (), dict(zip(keys, c, strict=True)))
        for c in combinations
    ]


def _window_set(text: str) -> tuple[int, ...]:
    return tuple(int(k) for k in text.split("+"))
