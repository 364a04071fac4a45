"""What `c2s cache info` shows, from receipts and metadata alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from c2s.cli.build_report import remarks
from c2s.methods.registry import methods_of
from c2s_cache import Cache
from c2s_cache.provenance import read_provenance
from c2s_pipeline.stages.registry import recorded_stages


def describe(path: str, further: Sequence[str] = ()) -> dict[str, Any]:
    """Facts about a cache: request, completeness, bytes per stage, quarantine, and the methods that it can train.

    Args:
        path: of the cache.
        further: methods that no package brings.

    Raises:
        CacheError: there is no cache at `path`.
        ConfigError: there is no such method.
    """
    cache = Cache(path)
    m = cache.manifest
    stages: dict[str, Any] = {}
    known = recorded_stages(m)
    said = []
    for record in m.stages:
        stage, blocks = record.name, 1 if record.once else cache.blocks
        receipts = [r for (s, _), r in cache.receipts.items() if s == stage]
        more, sentence = known[stage].describe(receipts) if stage in known else ({}, None)
        said += [sentence] if sentence is not None else []
        stages[stage] = {
            **more,
            "blocks": f"{len(receipts)}/{blocks}",
            "complete": len(receipts) == blocks,
            "bytes": sum(f.size for r in receipts for f in r.files.values()),
            "fingerprint": m.fingerprints[stage][:12],
        }
    computed = (
        s for s in m.stages if not s.once and any(f.startswith("teacher.") for f in s.facts)
    )
    beyond = sum(stages[s.name]["bytes"] for s in computed)
    return {
        "path": path,
        "format": m.format,
        "dataset": m.dataset,
        "split": m.split,
        "images": m.rows,
        "blocks": cache.blocks,
        "parts": _parts(cache),
        "views": m.views,
        "view_size": m.view_size,
        "classes": len(m.classes),
        "unseen": [m.classes[i] for i in m.unseen],
        "teacher": m.teacher.model_dump(mode="json"),
        "complete": all(s["complete"] for s in stages.values()),
        "stages": stages,
        "methods": methods_of(m, further),
        "said": [*said, *remarks(cache)],
        "bytes_per_image": round(beyond / m.rows, 1),
        "quarantined": cache.quarantine,
    }


def _parts(cache: Cache) -> list[dict[str, Any]]:
    """What came when: a part was there when the first command that finished says so."""
    m = cache.manifest
    told = [(len(e["parts"]), e.get("time")) for e in read_provenance(cache.address) if _listed(e)]
    return [
        {
            "images": part.rows,
            "blocks": len(m.blocks_of(number)),
            "time": next((time for parts, time in told if parts > number), None),
        }
        for number, part in enumerate(m.parts)
    ]


def _listed(entry: dict[str, Any]) -> bool:
    return isinstance(entry.get("parts"), list)


def print_report(facts: dict[str, Any]) -> None:
    """Print the facts as text on stdout."""
    from rich.console import Console
    from rich.table import Table

    from c2s.terminal import print_table

    console = Console(markup=False, highlight=False)  # names are no markup
    t = facts["teacher"]
    console.print(f"{facts['path']}  format {facts['format']}", style="bold")
    console.print(
        f"{facts['dataset']}/{facts['split']}: {facts['images']} images in {facts['blocks']} blocks, "
        f"{facts['classes']} classes, {len(facts['unseen'])} unseen ({', '.join(facts['unseen'])})",
    )
    for part in facts["parts"] if len(facts["parts"]) > 1 else ():
        came = f"finished {part['time']}" if part["time"] else "not finished"
        console.print(f"  {part['images']} images in {part['blocks']} blocks, {came}")
    console.print(
        f"teacher {t['name']} ({t['pretrained'] or 'own weights'}, {t['digest'][:12]}), D = {t['dim']}, "
        f"grid {t['grid'][0]} x {t['grid'][1]} at {t['dense_size']} px",
    )
    for sentence in facts["said"]:
        console.print(sentence)
    console.print(f"it can train {', '.join(facts['methods']) or 'no method that is installed'}")
    table = Table("stage", "blocks", "MiB", "fingerprint")
    for column in table.columns:
        column.no_wrap = True
    for name, s in facts["stages"].items():
        size = f"{s['bytes'] / 2**20:.2f}"
        table.add_row(
            name, s["blocks"], size, s["fingerprint"], style=None if s["complete"] else "red"
        )
    print_table(table)
    kib = facts["bytes_per_image"] / 1024
    if kib:
        console.print(f"{kib:.1f} KiB per image for what the teacher says")
    if not facts["complete"]:
        console.print(
            "incomplete: finish it by running the same c2s cache build again", style="red"
        )
    for entry in facts["quarantined"]:
        console.print(f"left out {entry['id']}: {entry['reason']}", style="yellow")
