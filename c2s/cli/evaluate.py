"""`c2s eval`: zero-shot metrics of a run on a labelled split."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from c2s.cli.lists import numbers
from c2s.cli.options import ALLOW_CODE, Mode
from c2s_cache.errors import ConfigError

if TYPE_CHECKING:
    from c2s.datasets import Dataset
    from c2s.evaluation.vocabulary import Vocabulary
    from c2s.runs.run import Run


class Background(StrEnum):
    """What becomes of a background class."""

    own = "own"
    ignored = "ignored"


def evaluate(
    run: Annotated[Path, typer.Option(help="Run folder.")],
    dataset: Annotated[str, typer.Option(help="Data set: see c2s data list.")],
    root: Annotated[
        Path | None,
        typer.Option(help="Folder of the data set, or the one that holds it [C2S_DATA]."),
    ] = None,
    split: Annotated[str, typer.Option(help="Split to evaluate on.")] = "val",
    mode: Annotated[Mode, typer.Option(help="Sliding window, or whole images.")] = Mode.slide,
    seen_offset: Annotated[
        str,
        typer.Option(
            help="Calibration: subtracted from the cosines of seen classes. Several values (0,0.02,0.05 "
            "or 0:0.1:0.02) are scored from one pass; the first is the result, the others stand beside "
            "it. Choose on another split than the one you report."
        ),
    ] = "0",
    vocabulary: Annotated[
        str | None,
        typer.Option(
            help="Where text embeddings of another data set's classes come from: a cache of it, a "
            ".npy file in class order, or 'names' (by the teacher's text tower, c2s[build])."
        ),
    ] = None,
    background: Annotated[
        Background,
        typer.Option(help="A background class counts as a class of its own, or is left out."),
    ] = Background.own,
    folded: Annotated[
        bool, typer.Option("--folded", help="Score the model that c2s fold makes of the run.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N images.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    allow_code: Annotated[bool, typer.Option("--allow-code", help=ALLOW_CODE)] = False,
    out: Annotated[
        Path | None, typer.Option(help="Also write the result there, as .json or per-class .csv.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Evaluate a run over all classes: sIoU, uIoU, hIoU, mIoU, pAcc and the IoU of every class.

    On another data set than the run's (--vocabulary), the classes that training annotated, by name,
    are the seen ones.
    """
    from c2s.cli.folders import check_file, write_file
    from c2s.datasets import load_dataset
    from c2s.deploy import fold_run
    from c2s.evaluation.evaluate import check_classes
    from c2s.evaluation.evaluate import evaluate as measure
    from c2s.evaluation.paper import paper_row
    from c2s.evaluation.vocabulary import own_vocabulary
    from c2s.runs.run import open_run
    from c2s.terminal import bar

    offsets = numbers(seen_offset, "--seen-offset")
    if out is not None and out.suffix not in (".json", ".csv"):
        raise ConfigError(f"--out {out} must end in .json or .csv.")
    if out is not None:
        check_file(out)
    if folded and any(offsets):
        raise ConfigError("--seen-offset acts on cosines, which a folded model does not have.")
    data = load_dataset(dataset, root)
    opened = open_run(run, allow_code)
    if vocabulary is None:
        check_classes(opened, data.classes, dataset)
        words = own_vocabulary(opened)
    else:
        words = _foreign(opened, data, vocabulary)
    field = data.protocol
    ignored = []
    if background == Background.ignored:
        if field.background is None:
            raise ConfigError(
                f"{dataset} has no background class; what belongs to no class is ignored already."
            )
        ignored = [field.background]
    items = list(data.split(split))[:limit]
    with bar("evaluate", len(items), "images") as advance:
        result = measure(
            opened,
            items,
            mode.value,
            offsets,
            device,
            advance,
            words,
            ignored,
            field.stride / field.view_size,
            field.short_side / field.view_size,
            fold_run(opened, words) if folded else None,
        )
    transductive = opened.config.self_train is not None
    setting = "transductive" if transductive else "inductive"
    paper = None
    if words.foreign:
        setting = f"cross-dataset, {setting}"
    elif not ignored:
        paper = paper_row(dataset, opened.config.student, transductive)
    facts = {
        "run": str(run),
        "dataset": dataset,
        "split": split,
        "setting": setting,
        "mode": mode.value,
        "seen_offset": offsets[0],
        "folded": folded,
        "background": background.value if field.background is not None else None,
        "vocabulary": vocabulary,
        "paper": paper,
    }
    if json_:
        typer.echo(json.dumps(facts | result.as_dict()))
    else:
        from c2s.evaluation.table import result_table
        from c2s.terminal import print_table

        print_table(result_table(result, setting, paper))
    if out is not None:  # what was measured has been shown, whatever becomes of the file
        as_json = json.dumps(facts | result.as_dict(), indent=2) + "\n"
        content = result.as_csv() if out.suffix == ".csv" else as_json
        write_file(out, content.encode())


def _foreign(run: Run, data: Dataset, source: str) -> Vocabulary:
    """Vocabulary of a data set that the run was not trained on."""
    from c2s.cli.predict import class_embeddings
    from c2s.evaluation.vocabulary import foreign_vocabulary, stored_embeddings

    if source == "names":
        embeddings = class_embeddings(run, list(data.prompts))
    else:
        embeddings = stored_embeddings(Path(source), run, data.classes, data.name)
    return foreign_vocabulary(run, data.classes, embeddings, data.prompts)
