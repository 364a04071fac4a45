"""What `c2s cache build` and `derive` print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from c2s.annotation import never_seen, no_label, read_annotation, unnamed
from c2s.datasets.registry import NAMES
from c2s.methods.registry import DEFAULT, methods_of

if TYPE_CHECKING:
    from c2s_cache import Cache


def report_build(report: Any, as_json: bool, recipe: str | None = None) -> None:
    """Print what a build did (`BuildReport`), by a recipe or by none: one JSON object, or sentences on stdout and
    quarantined images on stderr."""
    from c2s_cache import Cache

    cache = Cache(report.path)
    quarantine = cache.quarantine
    if as_json:
        facts = {
            "path": str(report.path),
            "rows": report.rows,
            "built": report.built,
            "reused": report.reused,
            "seconds": round(report.seconds, 3),
            "computed": report.computed,
            "teacher_passes": report.passes,
            "teacher_passes_saved": report.passes_saved,
            "peak_memory_bytes": report.memory,
            "quarantined": quarantine,
        }
        typer.echo(json.dumps(facts))
        return
    shown = _relative(report.path)
    if not report.computed:
        typer.echo(
            f"{shown} is complete: nothing to do ({report.rows} images). Its bytes were not looked at; "
            f"check them with: c2s cache verify {shown} --quick"
        )
    else:
        rate = report.built / max(report.seconds, 1e-9)
        typer.echo(
            f"{shown}: {report.built} images built, {report.reused} were there already, "
            f"{report.seconds:.1f} s ({rate:.1f} images/s), peak {report.memory / 2**30:.2f} GiB."
        )
        rows = ", ".join(f"{stage} {count}" for stage, count in report.computed.items())
        kept = (
            ", ".join(s for s in cache.manifest.stage_names if s not in report.computed)
            or "nothing"
        )
        passes = f"{report.passes} teacher passes done, {report.passes_saved} saved"
        typer.echo(f"rows computed: {rows}; taken as they were: {kept}; {passes}.")
    for sentence in remarks(cache):
        typer.echo(f"note: {sentence}", err=True)
    _show_quarantine(quarantine)
    methods = methods_of(cache.manifest)
    first = DEFAULT if DEFAULT in methods or not methods else methods[0]
    chosen = "" if first == DEFAULT else f" --method {first}"
    chosen += f" --recipe {recipe}" if recipe is not None else ""
    typer.echo(f"Train from it with: c2s train --cache {shown}{chosen}")
    others = [name for name in methods if name != first]
    if others:
        typer.echo(f"It can train {' and '.join(others)} as well: --method {others[0]}")


def remarks(cache: Cache) -> list[str]:
    """What is odd about the data of a cache, from its receipts, as sentences."""
    said = []
    frames = sum(len(r.notes.get("first_frame", ())) for r in cache.receipts.values())
    if frames:
        said.append(f"{frames} images have several frames or pages; the first was taken.")
    annotation, m = read_annotation(cache), cache.manifest
    said += filter(None, (unnamed(m.classes), no_label(m.classes)))
    if annotation is not None and m.dataset not in NAMES:
        sentence = never_seen(m.classes, m.seen, annotation.pixels, annotation.ignored)
        said += [] if sentence is None else [sentence]
    return said


def _show_quarantine(quarantine: list[dict[str, Any]]) -> None:
    if quarantine:
        typer.echo(f"{len(quarantine)} images could not be used and are left out:", err=True)
        for entry in quarantine[:10]:
            typer.echo(f"  {entry['id']}: {entry['reason']}", err=True)


def _relative(path: Path) -> Path:
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path
