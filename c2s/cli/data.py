"""`c2s data`: what data sets there are, and what is in them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from c2s_cache.errors import ConfigError

app = typer.Typer(help="List, show, check and prepare data sets.", no_args_is_help=True)
RootOption = Annotated[
    Path | None,
    typer.Option(help="Folder of the data set, or the one that holds it [C2S_DATA]."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("list")
def list_(root: RootOption = None, json_: JsonOption = False) -> None:
    """List the data sets by name, and which of them the root holds."""
    from c2s.datasets import NAMES, load_dataset
    from c2s.datasets.registry import data_root

    base = data_root(root)
    rows = [(name, load_dataset(name, root)) for name in NAMES]
    if json_:
        typer.echo(json.dumps([name for name, _ in rows]))
        return
    for name, ds in rows:
        found = f"  in {ds.root}" if ds.root and ds.root != base else ""
        typer.echo(f"{name:14} {len(ds.classes):4} classes, {len(ds.unseen):3} unseen{found}")
    typer.echo(
        "./FOLDER       your own: images/, masks/ and classes.yaml (c2s data init ./FOLDER writes it)"
    )


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Data set, or your own folder with a classes.yaml.")],
    root: RootOption = None,
    split_file: Annotated[
        Path | None, typer.Option(help="YAML file with `unseen:`, class names or ids.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Picture to draw of twelve images, their label maps over them, and the crops that training sees."
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Of --out: the split [default: the first].")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Show the classes of a data set, which of them are unseen, and where to get it."""
    from c2s.cli.data_sheet import write_sheet
    from c2s.datasets import load_dataset

    ds = load_dataset(name, root, split_file)
    if out is not None:
        write_sheet(ds, split, out)
        return
    if split is not None:
        raise ConfigError("--split says which images --out draws; drop it.")
    splits = ds.descriptor.splits if ds.descriptor else {}
    expected = {split: list(layout.expected) for split, layout in splits.items()}
    download = ds.descriptor.download if ds.descriptor else ""
    if json_:
        facts = {
            "name": ds.name,
            "classes": list(ds.classes),
            "unseen": list(ds.unseen),
            "prompts": list(ds.prompts),
            "splits": list(ds.splits),
            "expected": expected,
            "protocol": dataclasses.asdict(ds.protocol),
            "root": str(ds.root) if ds.root else None,
            "download": download,
        }
        typer.echo(json.dumps(facts))
        return
    for i, (class_name, prompt) in enumerate(zip(ds.classes, ds.prompts, strict=True)):
        notes = [f'"{prompt}"'] * (prompt != class_name) + ["unseen"] * (i in ds.unseen)
        typer.echo(f"{i:4}  {class_name:20} {', '.join(notes)}".rstrip())
    for split in ds.splits:
        counts = " or ".join(f"{count:,}" for count in expected.get(split, []))
        typer.echo(f"split {split}{f': {counts} images' if counts else ''}")
    if ds.descriptor is not None:
        typer.echo(f"folder: {ds.root or 'not said'}")
    if download:
        typer.echo(f"needs {download}")


@app.command()
def check(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Data sets, or your own folders [default: all that the root holds]."),
    ] = None,
    root: RootOption = None,
    split: Annotated[str | None, typer.Option(help="Only this split.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only whether all files are there; read none.")
    ] = False,
    complete: Annotated[
        bool, typer.Option("--complete", help="A missing split or another count is a problem too.")
    ] = False,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Images read at a time [default: one per core, 8 at most]."),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Read every image and label map: counts, sizes, classes, whatever is missing or unreadable.

    Exit code 0 only if nothing is wrong. A split that is smaller than the official one is pointed out.
    """
    from c2s.cli.data_check import check_data_sets, print_report

    reports, absent = check_data_sets(names or [], root, split, complete, threads, quick)
    if json_:
        typer.echo(json.dumps({"splits": [r.as_dict() for r in reports], "absent": absent}))
    else:
        for report in reports:
            print_report(report)
        for sentence in absent:
            typer.echo(f"not there: {sentence}", err=True)
    if any(report.problems for report in reports):
        raise typer.Exit(1)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Your folder of photos and label maps.")],
) -> None:
    """Write the classes.yaml of your own folder, by looking at its label maps.

    Finds the folders of photos and label maps, how the names of the latter end, and the values or colours
    that they hold. Names come from a list beside them (classes.txt, class_dict.csv, labelmap.txt, ...) if there
    is one; else put them in.
    """
    from c2s.cli.folders import then_look, write_file
    from c2s.datasets.custom import CLASSES_FILE
    from c2s.datasets.draft import draft_classes

    draft = draft_classes(folder)
    write_file(folder / CLASSES_FILE, draft.text.encode())
    typer.echo(
        f"{folder}: {draft.pairs:,} photos in {draft.images} have a label map in {draft.masks}; "
        f"{draft.looked:,} of these were looked at."
        + (f" Splits: {', '.join(draft.splits)}." if draft.splits else "")
    )
    typer.echo(draft.text.rstrip())
    if draft.unused:
        typer.echo(
            f"note: other folders with pictures are no part of it: {', '.join(draft.unused)}.",
            err=True,
        )
    if not draft.named:
        typer.echo(f"Put the names of the classes into {folder / CLASSES_FILE}.")
    typer.echo(then_look(folder))


@app.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            help="COCO or panoptic JSON, Label Studio's JSON, CVAT's XML, LightlyTrain's or ultralytics' YAML, "
            "or a folder of masks in colour with labelmap.txt or class_dict.csv, or of .mat files."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for images/, masks/ and classes.yaml.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder of the photos [default: beside SOURCE].")
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(help="Folder of panoptic PNGs [default: SOURCE without its ending]."),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Names of the values in .mat files, 0 first, or @FILE.")
    ] = None,
    background: Annotated[
        str | None,
        typer.Option(help="Class of pixels that no annotation covers [default: ignored]."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="What to call it [default: as SOURCE is named, or train]."),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Convert what other tools export into a folder of your own, which `c2s data check` and all else take.

    Originals stay as they are; photos are linked where the file system can, or else copied.
    """
    from c2s.cli.data_convert import convert_data, show

    show(convert_data(source, out, images, masks, classes, background, split), json_)


@app.command()
def prepare(
    name: Annotated[
        str, typer.Argument(help="voc, coco-stuff, context, context-bg or cityscapes.")
    ],
    root: RootOption = None,
    json_: JsonOption = False,
) -> None:
    """Write what the official archives lack: label maps of class ids, and lists of images.

    Files are added beside the originals, which stay as they are; interrupted, the command goes on
    where it stopped. Only context needs it to be read at all, from trainval_merged.json (1.1 GB of
    memory); voc makes its augmented masks and their list from the Semantic Boundaries Dataset. Prepare
    before you build: a cache made from the other label files is not taken for one made from these.
    """
    from rich.console import Console
    from rich.text import Text

    from c2s.datasets import load_dataset
    from c2s.datasets.prepare import plan_preparation
    from c2s.terminal import bar

    dataset = load_dataset(name, root)
    with Console(stderr=True).status(Text(f"looking at what there is of {name}")):
        plan = plan_preparation(dataset)
    with bar("prepare", len(plan.jobs), "label maps") as advance:
        plan.run(lambda done, total: advance(1))
    lists = [str(file) for file in plan.lists]
    if json_:
        facts = {"name": name, "written": len(plan.jobs), "present": plan.present, "lists": lists}
        typer.echo(json.dumps(facts))
    elif not plan.jobs and not lists:
        typer.echo(f"{name} is prepared: nothing to do ({plan.present:,} label maps).")
    else:
        there = f"{plan.present:,} were there already"
        typer.echo(f"{name}: {len(plan.jobs):,} label maps written, {there}.")
        for file in lists:
            typer.echo(f"wrote {file}")


@app.command()
def synonyms(
    name: Annotated[str, typer.Argument(help="Data set, or your own folder with a classes.yaml.")],
    wordnet: Annotated[
        Path | None, typer.Option(help="Folder with WordNet's index.noun and data.noun.")
    ] = None,
    root: RootOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the draft there [default: print it].")
    ] = None,
) -> None:
    """Draft further words for the classes of a data set from WordNet, for you to strike what is not meant.

    What is left is for `c2s cache build --method gkc --config DRAFT`. Every meaning of a noun stands there under its
    definition: of most names only one is meant.
    """
    from c2s.cli.folders import check_file, write_file
    from c2s.datasets import load_dataset
    from c2s.datasets.wordnet import WordNet, draft_synonyms

    if wordnet is None:
        raise ConfigError(
            "--wordnet is missing: words are drafted from WordNet, which is no part of c2s.",
            "Give the folder that holds its index.noun and data.noun (of version 3.0 or 3.1: dict): --wordnet DIR",
        )
    if out is not None:
        check_file(out)
        if out.exists():
            raise ConfigError(f"--out {out} is there already; a draft replaces nothing.")
    data = load_dataset(name, root)
    text = draft_synonyms(WordNet(wordnet), data.classes, data.prompts)
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_file(out, text.encode())
        typer.echo(f"wrote {out}")
