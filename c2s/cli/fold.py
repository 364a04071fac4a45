"""`c2s fold`: a trained student as an ordinary segmentation model with its classes folded in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from c2s.cli.options import ALLOW_CODE
from c2s_cache.errors import ConfigError

if TYPE_CHECKING:
    from c2s.evaluation.vocabulary import Vocabulary
    from c2s.runs.run import Run


def fold(
    run: Annotated[Path, typer.Option(help="Run folder.")],
    out: Annotated[
        Path, typer.Option(help="Folder for model.safetensors, config.json and the model card.")
    ],
    classes: Annotated[
        str | None,
        typer.Option(help='Class names, e.g. "cat, sofa" [default: the run\'s classes].'),
    ] = None,
    vocabulary: Annotated[
        Path | None,
        typer.Option(
            help="Classes and text embeddings of a cache, or of a .npy file in the order of --classes."
        ),
    ] = None,
    license_: Annotated[
        str | None,
        typer.Option(
            "--license",
            help="Licence for the model card [default: apache-2.0, or other if training started from "
            "weights that do not come with c2s].",
        ),
    ] = None,
    export: Annotated[
        bool, typer.Option("--export", help="Also write model.pt2, a torch.export program.")
    ] = False,
    allow_code: Annotated[bool, typer.Option("--allow-code", help=ALLOW_CODE)] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace a folded model of that name.")] = False,
) -> None:
    """Fold text embeddings into a student's classifier: the stock model with a head of K classes.

    At every position of the feature map the best class is that of the cosines; see docs/deploy.md for what
    interpolation and overlapping windows make of it. A seen offset cannot be folded: it acts on cosines.
    """
    from c2s.deploy.fold import fold_run, write_model
    from c2s.runs.run import open_run
    from c2s.students.base import parameter_count

    opened = open_run(run, allow_code)
    model = fold_run(opened, _words(opened, classes, vocabulary), license_)
    write_model(model, out, overwrite, export)
    size = parameter_count(model.parameters()) / 1e6
    info = model.config
    typer.echo(
        f"{out}: {info.student}, {len(info.classes)} classes ({len(info.unseen)} never annotated), "
        f"{size:.2f} M parameters."
    )


def _words(run: Run, classes: str | None, source: Path | None) -> Vocabulary | None:
    """The classes asked for; None: the run's own."""
    from c2s.cli.predict import class_embeddings, class_names
    from c2s.evaluation.vocabulary import foreign_vocabulary, stored_embeddings
    from c2s_cache.reader import Cache

    if classes is None and source is None:
        return None
    if source is None or source.suffix == ".npy":
        if classes is None:
            raise ConfigError(f"{source} holds no names; give them in its order with --classes.")
        names = class_names(classes)
        if source is None:
            return foreign_vocabulary(run, names, class_embeddings(run, names))
        return foreign_vocabulary(run, names, stored_embeddings(source, run, names, str(source)))
    if classes is not None:
        raise ConfigError(f"The cache {source} has its own class names; drop --classes.")
    manifest = Cache(source).manifest
    embeddings = stored_embeddings(source, run, manifest.classes, manifest.dataset)
    return foreign_vocabulary(run, manifest.classes, embeddings)
