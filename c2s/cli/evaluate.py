"""`c2s eval`: zero-shot metrics of a run on a labelled split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from c2s.class_list import understood
from c2s.cli.options import ALLOW_CODE
from c2s.cli.settings import (
    Background,
    ConfigOption,
    EvalConfig,
    Mode,
    SetOption,
    Synonyms,
    option,
    settled,
)
from c2s_cache.errors import ConfigError

if TYPE_CHECKING:
    from c2s.evaluation.background import Background as ByThreshold
    from c2s.runs.run import Run


def evaluate(
    run: Annotated[Path | None, option(EvalConfig, "run")] = None,
    dataset: Annotated[str | None, option(EvalConfig, "dataset")] = None,
    root: Annotated[Path | None, option(EvalConfig, "root")] = None,
    split: Annotated[str | None, option(EvalConfig, "split")] = None,
    mode: Annotated[Mode | None, option(EvalConfig, "mode")] = None,
    frames: Annotated[int | None, option(EvalConfig, "frames")] = None,
    seen_offset: Annotated[str | None, option(EvalConfig, "seen_offset")] = None,
    vocabulary: Annotated[str | None, option(EvalConfig, "vocabulary")] = None,
    teacher_weights: Annotated[str | None, option(EvalConfig, "teacher_weights")] = None,
    synonyms: Annotated[Synonyms | None, option(EvalConfig, "synonyms")] = None,
    background: Annotated[Background | None, option(EvalConfig, "background")] = None,
    background_threshold: Annotated[str | None, option(EvalConfig, "background_threshold")] = None,
    folded: Annotated[bool | None, option(EvalConfig, "folded", "--folded")] = None,
    limit: Annotated[int | None, option(EvalConfig, "limit")] = None,
    device: Annotated[str | None, option(EvalConfig, "device")] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    allow_code: Annotated[bool, typer.Option("--allow-code", help=ALLOW_CODE)] = False,
    out: Annotated[
        Path | None, typer.Option(help="Also write the result there, as .json or per-class .csv.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Evaluate a run over all classes: sIoU, uIoU, hIoU, pAcc, mIoU, mAcc and the IoU of every class.

    On another data set than the run's (--vocabulary), the classes that training annotated, by name,
    are the seen ones.
    """
    asked = settled(EvalConfig, config, set_, locals())
    from c2s.annotation import never_seen
    from c2s.cli.folders import check_file, write_file
    from c2s.cli.frames import check_frames
    from c2s.cli.runs import opened_run
    from c2s.cli.vocabulary import data_vocabulary
    from c2s.datasets import NAMES, load_dataset
    from c2s.deploy import fold_run
    from c2s.evaluation.evaluate import evaluate as measure
    from c2s.evaluation.evaluate import predictor
    from c2s.students.base import FeatureStudent
    from c2s.terminal import bar

    if out is not None and out.suffix not in (".json", ".csv"):
        raise ConfigError(f"--out {out} must end in .json or .csv.")
    if out is not None:
        check_file(out)
    data = load_dataset(asked.dataset, asked.root)
    opened = opened_run(asked.run, allow_code)
    if asked.frames > 1:
        if asked.folded or asked.background == "threshold":
            raise ConfigError(
                "--frames goes neither with --folded nor with --background threshold."
            )
        check_frames(opened)
    words = data_vocabulary(opened, data, asked.vocabulary, asked.teacher_weights)
    offsets = asked.seen_offset or (0.0 if words.foreign else opened.seen_offset,)
    if asked.folded and any(offsets) and isinstance(opened.student, FeatureStudent):
        raise ConfigError("--seen-offset acts on cosines, which a folded model does not have.")
    if asked.synonyms == "mean":
        words = words.averaged()
    if words.foreign:
        typer.echo(understood(" | ".join(names) for names in words.names), err=True)
    empty, ignored, by_threshold = data.protocol.background, [], None
    if asked.background != "own":
        if empty is None:
            raise ConfigError(
                f"{asked.dataset} has no background class; what belongs to no class is ignored already."
            )
        ignored = [empty]
    if asked.background == "threshold":
        by_threshold = _by_threshold(asked, opened, ignored.pop())
    items = list(data.split(asked.split))[: asked.limit]
    scored = words if by_threshold is None else words.without(by_threshold.id)
    model = predictor(
        opened,
        scored,
        mode=asked.mode,
        device=asked.device,
        protocol=data.protocol,
        classifier=fold_run(opened, scored) if asked.folded else None,
    )
    with bar("evaluate", len(items), "images") as advance:
        result = measure(
            model,
            items,
            words,
            seen_offsets=offsets,
            ignored=ignored,
            background=by_threshold,
            frames=asked.frames,
            advance=advance,
        )
    transductive = opened.config.self_train is not None
    setting = "transductive" if transductive else "inductive"
    paper = None
    if words.foreign:
        setting = f"cross-dataset, {setting}"
    elif asked.background != "ignored":
        paper = opened.config.method.paper(asked.dataset, opened.config.student, transductive)
    facts = {
        "dataset": asked.dataset,
        "split": asked.split,
        "setting": setting,
        "mode": asked.mode,
        "frames": asked.frames,
        "seen_offset": offsets[0],
        "background": asked.background,
        "background_threshold": by_threshold and by_threshold.thresholds[0],
        "folded": asked.folded,
        "paper": paper,
        "config": asked.model_dump(mode="json"),
    }
    if asked.dataset not in NAMES:
        every = range(len(result.classes))
        odd = never_seen(result.classes, every, result.pixels, result.ignored)
        if odd is not None:
            typer.echo(f"note: {asked.split}: {odd}", err=True)
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


def _by_threshold(asked: EvalConfig, run: Run, background: int) -> ByThreshold:
    """The background class, and the thresholds that were asked for, or are the method's.

    Raises:
        ConfigError: nobody says a threshold, or offsets are asked for beside it.
    """
    from c2s.evaluation.background import Background as ByThreshold

    if asked.seen_offset is not None:
        raise ConfigError("--seen-offset has no effect beside --background threshold.")
    usual = run.config.method.background_threshold(asked.dataset)
    thresholds = asked.background_threshold or (() if usual is None else (usual,))
    if not thresholds:
        raise ConfigError(
            f"--background threshold: the method {run.config.method.name} has no threshold for {asked.dataset}.",
            "Name some, and choose on another split than the one you report: --background-threshold 0.5:0.95:0.05",
        )
    return ByThreshold(background, thresholds)
