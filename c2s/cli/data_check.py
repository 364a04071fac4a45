"""What `c2s data check` looks at, and how it shows what it found."""

from __future__ import annotations

from pathlib import Path

import typer

from c2s.datasets.check import SplitReport, check_split
from c2s.datasets.folder import FolderSplit, NotThere
from c2s.datasets.registry import FOLDERS, Dataset, data_root, load_dataset
from c2s_cache import DataError

SHOWN = 20
"""Problems of a split that are printed; --json has all."""


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
                    problems = [error.what]
                    reports.append(
                        SplitReport(dataset.name, name, dataset.classes, problems=problems)
                    )
        if missing is not None and len(reports) == before:
            raise missing
    for report in reports:
        if complete and report.is_subset:
            official = " or ".join(f"{n:,}" for n in report.expected)
            report.problems.append(f"{report.images:,} images; the official split has {official}.")
    return reports, absent


def print_report(report: SplitReport) -> None:
    """Print what was found in a split: facts to stdout, problems to stderr."""
    title = f"{report.dataset}/{report.split}"
    official = " or ".join(f"{n:,}" for n in report.expected)
    count = f"{report.images:,} images" + (f" of {official}, a subset" if report.is_subset else "")
    if report.smallest and report.largest:
        (w0, h0), (w1, h1) = report.smallest, report.largest
        count += f", {w0} x {h0} to {w1} x {h1} pixels"
    typer.echo(f"{title}: {count}")
    total = int(report.pixels.sum())
    if total:
        named = sorted(zip(report.pixels.tolist(), report.classes, strict=False), reverse=True)
        shares = [f"{name} {100 * n / total:.1f} %" for n, name in named[:5] if n]
        typer.echo(f"  {', '.join(shares)}; ignored {100 * report.pixels[-1] / total:.1f} %")
        absent = report.absent
        if absent:
            more = f" and {len(absent) - 8} more" if len(absent) > 8 else ""
            typer.echo(f"  {len(absent)} classes have no pixel: {', '.join(absent[:8])}{more}")
    for problem in report.problems[:SHOWN]:
        typer.echo(f"error: {title}: {problem}", err=True)
    if len(report.problems) > SHOWN:
        typer.echo(f"error: {title}: {len(report.problems) - SHOWN} more problems", err=True)


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
        return SplitReport(dataset.name, name, dataset.classes, problems=[error.what])


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
