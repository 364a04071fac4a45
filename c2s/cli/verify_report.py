"""What `c2s cache verify` prints."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from c2s_cache import Cache
from c2s_cache.integrity import UNNAMED, Finding
from c2s_cache.receipt import METADATA, receipt_path
from c2s_pipeline.stages.registry import unknown

SHOWN = 20
"""Findings that are printed, and receipts; --json has all findings."""


def report_findings(
    cache: Cache, findings: Sequence[Finding], live: Any | None, as_json: bool
) -> None:
    """Print the outcome: one JSON object, or a sentence on stdout and the findings on stderr.

    Args:
        cache: the cache.
        findings: of all checks, the live one included.
        live: outcome of the live check (`SpotCheck`); None if it was not made.
        as_json: print JSON.
    """
    path, m = cache.address, cache.manifest
    if as_json:
        facts = {
            "path": path,
            "sound": not findings,
            "findings": [asdict(f) for f in findings],
            "live": None if live is None else _live(live),
        }
        typer.echo(json.dumps(facts))
        return
    if not findings:
        typer.echo(f"{path} is whole and sound: {m.rows} images in {cache.blocks} blocks.")
    if strangers := unknown(m):
        typer.echo(
            f"Nothing here knows the stage {', '.join(strangers)}, so its values were not looked at: "
            "name it with --stage python:MODULE:CLASS."
        )
    if live is not None and live.worst:
        measured = "; ".join(
            f"{like.what} at least {like.value:.6f} (must be {like.at_least})"
            for like in live.worst.values()
        )
        typer.echo(
            f"teacher run again on {len(live.rows)} rows ({live.passes} passes): {measured}."
        )
    for finding in findings[:SHOWN]:
        typer.echo(f"error: {finding.check}: {finding.where}: {finding.what}", err=True)
    if findings:
        many = f"{len(findings)} finding{'s' if len(findings) > 1 else ''}"
        typer.echo(f"{path}: {many}. {_repair(cache, findings)}", err=True)


def _repair(cache: Cache, findings: Sequence[Finding]) -> str:
    """What to type so that the next build makes the damaged blocks anew."""
    again = (
        f"run the build again with its settings: c2s cache build --dataset {cache.manifest.dataset} "
        f"--out {cache.address}"
    )
    strange = [f"{cache.address}/{f.where}" for f in findings if f.what == UNNAMED]
    if len(strange) == len(findings):
        more = f" and {len(strange) - SHOWN:,} more" if len(strange) > SHOWN else ""
        return f"What no receipt names is no part of the cache; remove it: rm {shlex.join(strange[:SHOWN])}{more}"
    damaged = {f.where for f in findings}
    receipts = [
        f"{cache.address}/{receipt_path(Path(), *key).as_posix()}"
        for key, receipt in sorted(cache.receipts.items())
        if key[0] != METADATA and not damaged.isdisjoint(receipt.files)
    ]
    if not receipts:
        return f"To make what is missing, {again}"
    more = f" and {len(receipts) - SHOWN:,} more" if len(receipts) > SHOWN else ""
    return f"To repair it, {again} after you have deleted {shlex.join(receipts[:SHOWN])}{more}"


def _live(live: Any) -> dict[str, Any]:
    return {
        "rows": list(live.rows),
        "teacher_passes": live.passes,
        "worst": {name: asdict(likeness) for name, likeness in live.worst.items()},
    }
