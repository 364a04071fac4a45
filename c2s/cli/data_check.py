"""What `c2s data check` looks at, and how it shows what it found."""

from __future__ import annotations

from pathlib import Path

import typer

from c2s.datasets.check import Problem, SplitReport, check_split, note_never_seen
from c2s.datasets.folder import FolderSplit, NotThere
from c2s.datasets.outside import outside_splits
from c2s.datasets.registry import FOLDERS, Dataset, data_root, load_dataset
from c2s_cache import DataError

SHOWN = 20
"""Kinds of problems, and classes, that are printed of a split; --json has all."""


def check_data_sets(
    names: list[str],
    root: Path | None,
    split: str | None,
    complete: bool,
    threads: int | None,
    quick: bool = False,
) -> tuple[list[SplitReport], list[str]]:
    """Check splits of data sets.

    Args:
        names: data sets; none: every one whose official folder the root holds.
        root: as for `load_dataset`.
        split: only this split; None: all.
        complete: a split that is absent or not of the official size has a problem.
        threads: images read at a time.
        quick: only whether all files are there.

    Returns:
        Reports of the splits, and a sentence for each split that is not there.

    Raises:
        DataError: nothing at all is there to check.
    """
    reports: list[SplitReport] = []
    absent: list[str] = []
    for dataset in [load_dataset(name, root) for name in names] or _held(root):
        before = len(reports)
        missing: NotThere | None = None
        for name in [split] if split else dataset.splits:
            try:
                reports.append(_check(dataset, name, threads, quick))
            except NotThere as error:
                missing = error
                absent.append(f"{dataset.name}/{name}: {error.what}")
                if complete:
                    problems = [Problem("", error.what, error.what)]
                    reports.append(
                        SplitReport(dataset.name, name, dataset.classes, problems=problems)
                    )
        if missing is not None and len(reports) == before:
            raise missing
        note_never_seen(reports[before:])
        if dataset.root is not None and isinstance(
            one := dataset.split(reports[before].split), FolderSplit
        ):
            reports[before].notes += outside_splits(one)
    for report in reports:
        if complete and report.images is not None and report.is_subset:
            official = " or ".join(f"{n:,}" for n in report.expected)
            what = f"{report.images:,} images; the official split has {official}."
            report.problems.append(Problem("", what, what))
    return reports, absent


def print_report(report: SplitReport) -> None:
    """Print what was found in a split: facts to stdout, problems and remarks to stderr, those of a kind in one line."""
    title = f"{report.dataset}/{report.split}"
    official = " or ".join(f"{n:,}" for n in report.expected)
    number = report.images
    images = "images not counted" if number is None else f"{number:,} image{'s' * (number != 1)}"
    count = images + (f" of {official}, a subset" if report.is_subset else "")
    if report.smallest and report.largest:
        (w0, h0), (w1, h1) = report.smallest, report.largest
        count += f", {w0} x {h0} to {w1} x {h1} pixels"
    typer.echo(f"{title}: {count}")
    if report.pixels.sum():
        for line in _classes(report):
            typer.echo(f"  {line}")
    for note in report.notes:
        typer.echo(f"note: {title}: {note}", err=True)
    for kind in report.kinds[:SHOWN]:
        typer.echo(f"error: {title}: {_sentence(kind, report)}", err=True)
    if len(report.kinds) > SHOWN:
        rest = f"{len(report.kinds) - SHOWN} more kinds of problems; --json has all"
        typer.echo(f"error: {title}: {rest}", err=True)


def _sentence(kind: list[Problem], report: SplitReport) -> str:
    """Problems of a kind: the only one in full, of several how many there are and where the first is."""
    first, pixels = kind[0], sum(problem.pixels for problem in kind)
    said = str(first)
    if len(kind) > 1:
        end = "" if first.kind.endswith(".") else "."
        said = f"{len(kind):,} images: {first.kind}{end} The first is {first.where}."
    share = 100 * pixels / max(1, int(report.pixels.sum()) + sum(p.pixels for p in report.problems))
    about = f" ({share:.1f} % of the pixels)" * bool(pixels)
    return f"{said.removesuffix('.')}{about}. {first.cure}".strip()


def _classes(report: SplitReport) -> list[str]:
    """The table of classes: pixels and images of each, those never seen said; of very many, the most frequent."""
    total = int(report.pixels.sum())
    rows = [
        (int(report.pixels[i]), i, name, "unseen" if i in report.unseen else "")
        for i, name in enumerate(report.classes)
    ]
    shown = rows if len(rows) <= 2 * SHOWN else sorted(rows, reverse=True)[:SHOWN]
    width = max(len("no class"), *(len(name) for _, _, name, _ in shown))
    lines = [f"{'id':>4}  {'class':{width}}  pixels  images"]
    for pixels, i, name, mark in shown:
        mark = mark if pixels else f"{mark or 'seen'}, but no pixel of it is annotated"
        cells = f"{i:4}  {name:{width}} {_share(pixels, total):>7} {report.occurs[i]:7,}"
        lines.append(f"{cells}  {mark}".rstrip())
    none = int(report.pixels[-1])
    lines.append(f"{'':4}  {'no class':{width}} {_share(none, total):>7} {report.occurs[-1]:7,}")
    if len(shown) < len(rows):
        lines.append(f"and {len(rows) - len(shown)} classes that are rarer")
        if report.absent:
            names = ", ".join(report.absent[:8]) + (", ..." if len(report.absent) > 8 else "")
            lines.append(f"{len(report.absent)} classes have no pixel: {names}")
    return lines


def _share(pixels: int, total: int) -> str:
    return f"{100 * pixels / total:.1f} %" if pixels else "-"


def _check(dataset: Dataset, name: str, threads: int | None, quick: bool) -> SplitReport:
    from c2s.terminal import bar

    split = dataset.split(name)
    descriptor = dataset.descriptor
    if name not in dataset.splits:
        _ = split.ids  # says which splits there are
    expected = descriptor.splits[name].expected if descriptor else ()
    try:
        if quick:
            return check_split(split, expected, quick=True)
        images = len(split.listed) if isinstance(split, FolderSplit) else len(split)
        with bar(f"{dataset.name}/{name}", images, "images") as advance:
            return check_split(split, expected, lambda done, total: advance(1), threads)
    except NotThere:
        raise
    except DataError as error:
        wrong = Problem("", error.what, error.what, error.hint or "")
        return SplitReport(dataset.name, name, dataset.classes, images=None, problems=[wrong])


def _held(root: Path | None) -> list[Dataset]:
    """Data sets whose official folder lies in the root; of two that share one, the first."""
    base = data_root(root)
    if base is None:
        raise DataError(
            "there is nothing to check: neither a data set nor a folder of data sets is named.",
            "Name one: c2s data check NAME, with --root DIR or C2S_DATA for where it lies.",
        )
    by_folder = {d.folder: d for d in reversed(FOLDERS.values()) if (base / d.folder).is_dir()}
    if not by_folder:
        known = ", ".join(dict.fromkeys(d.folder for d in FOLDERS.values()))
        raise DataError(f"{base} holds no data set: expected one of the folders {known}.")
    return [load_dataset(d.name, base) for d in FOLDERS.values() if by_folder.get(d.folder) is d]
