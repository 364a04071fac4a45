"""`c2s fold`: a trained student as an ordinary segmentation model with its classes folded in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from c2s.class_list import understood
from c2s.cli.folders import check_folder
from c2s.cli.options import ALLOW_CODE
from c2s.cli.settings import ConfigOption, FoldConfig, SetOption, option, settled


def fold(
    out: Annotated[
        Path, typer.Option(help="Folder for model.safetensors, config.json and the model card.")
    ],
    run: Annotated[Path | None, option(FoldConfig, "run")] = None,
    classes: Annotated[str | None, option(FoldConfig, "classes")] = None,
    vocabulary: Annotated[Path | None, option(FoldConfig, "vocabulary")] = None,
    teacher_weights: Annotated[str | None, option(FoldConfig, "teacher_weights")] = None,
    license_: Annotated[str | None, option(FoldConfig, "license", "--license")] = None,
    export: Annotated[bool | None, option(FoldConfig, "export", "--export")] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    allow_code: Annotated[bool, typer.Option("--allow-code", help=ALLOW_CODE)] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace a folded model of that name.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print its config.json.")] = False,
) -> None:
    """Fold text embeddings into a student's classifier: the stock model with a head of K classes.

    At every position of the feature map the best class is that of the cosines; see docs/deploy.md for what
    interpolation and overlapping windows make of it. A seen offset cannot be folded: it acts on cosines.
    """
    asked = settled(FoldConfig, config, set_, locals())
    check_folder(out)
    from c2s.cli.runs import opened_run
    from c2s.cli.vocabulary import run_vocabulary
    from c2s.deploy.fold import fold_run, write_model
    from c2s.deploy.info import encode_info
    from c2s.students.base import parameter_count

    opened = opened_run(asked.run, allow_code)
    words = run_vocabulary(opened, asked.classes, asked.vocabulary, asked.teacher_weights)
    if words.foreign:
        typer.echo(understood(" | ".join(names) for names in words.names), err=True)
    model = fold_run(opened, words, asked.license)
    write_model(model, out, overwrite, asked.export)
    info = model.config
    if json_:
        typer.echo(json.dumps(encode_info(info)))
        return
    size = parameter_count(model.parameters()) / 1e6
    typer.echo(
        f"{out}: {info.student}, {len(info.classes)} classes ({len(info.unseen)} never annotated), "
        f"{size:.2f} M parameters."
    )
