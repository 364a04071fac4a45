"""`c2s masks`: how good pseudo masks are before any training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

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
from c2s_cache.errors import ConfigError

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
        Path | None,
        typer.Option(help="Score the masks stored in this cache instead (needs no teacher)."),
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
        float, typer.Option(help="Smallest mask that is scored, as a fraction of the view.")
    ] = 0.0025,
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
    from c2s.cli.masks_report import PAPER, score_table, write_scores
    from c2s.datasets import load_dataset
    from c2s.shapes.defaults import build_defaults
    from c2s.terminal import bar

    for file in out or ():
        if file.suffix not in SUFFIXES:
            raise ConfigError(f"--out {file} must end in one of {', '.join(SUFFIXES)}.")
    source = load_dataset(dataset, root, split_file).split(split)
    if cache is not None:
        idle = {
            "--teacher": teacher,
            "--pretrained": pretrained,
            "--dense-size": dense_size,
            "--dense-features": dense_features,
            "--thresholds": thresholds,
            "--windows": windows,
            "--iterations": iterations,
            "--limit": limit,
            "--config": config,
            "--set": set_ or None,
        }
        given = [option for option, value in idle.items() if value is not None]
        if given:
            raise ConfigError(
                f"--cache scores the masks that the cache holds, so {', '.join(given)} cannot act.",
                "Leave them out, or leave out --cache.",
            )
        from c2s_cache import open_cache
        from c2s_pipeline.oracle import score_cache

        opened = open_cache(cache)
        with bar("scoring", opened.blocks, "blocks") as advance:
            rows = [score_cache(opened, source, min_area, advance).as_dict()]
    else:
        from c2s.config import resolve
        from c2s_pipeline.build import load_teacher
        from c2s_pipeline.kmeans import create_backend
        from c2s_pipeline.masks import MaskConfig
        from c2s_pipeline.oracle import score_settings
        from c2s_pipeline.request import BuildRequest

        options = {"teacher": teacher, "pretrained": pretrained, "dense_size": dense_size}
        requests = [
            resolve(
                BuildRequest,
                build_defaults(dataset, teacher),
                config,
                set_ or (),
                {**options, "dense_features": features.strip()},
            )
            for features in (dense_features or "plain").split(",")
        ]
        base = requests[0].masks.model_dump()
        changes = [
            {"windows": w, "iterations": i, "threshold": t}
            for w in listed(windows, "--windows", _window_set) or [base["windows"]]
            for i in listed(iterations, "--iterations", int) or [base["iterations"]]
            for t in listed(thresholds or THRESHOLDS, "--thresholds", float)
        ]
        configs = [resolve(MaskConfig, base, None, (), c) for c in changes]
        rows = []
        count = len(source.ids[:limit])
        with bar("scoring", count * len(requests), "images") as advance:
            for request in requests:
                model, _ = load_teacher(request)
                backend = create_backend(request.backend, model.device)
                found = score_settings(
                    source,
                    model,
                    configs,
                    backend,
                    limit=limit,
                    min_area=min_area,
                    batch_size=request.batch_size,
                    advance=advance,
                )
                rows += [s.as_dict() for s in found]
    facts = {"dataset": dataset, "split": split, "rows": rows, "paper": PAPER}
    for file in out or ():
        write_scores(file, facts)
    if json_:
        typer.echo(json.dumps(facts))
    else:
        from c2s.terminal import print_table

        print_table(score_table(facts))


def _window_set(text: str) -> tuple[int, ...]:
    return tuple(int(k) for k in text.split("+"))
