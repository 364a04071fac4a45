"""What the teacher cost, and what it would have cost in the training loop: from what builds recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from c2s.runs.config import TrainConfig
from c2s_cache import Cache
from c2s_cache.provenance import read_provenance


def teacher_time(caches: Sequence[str], runs: Sequence[TrainConfig]) -> dict[str, Any]:
    """Seconds spent on caches, and those of online training at the rate that the first one was built.

    Online, every view of every batch goes through the teacher once per run, at best as fast as in the
    build; that rate is images per second of `provenance.jsonl`, all of a build counted.

    Args:
        caches: addresses of the base cache, then those derived for this grid.
        runs: every run of the grid.

    Returns:
        `cached_seconds`, `images_per_s` of the base cache's build, `views` that the runs saw,
        `online_seconds` = views / images_per_s, `saved_seconds`. None for what no build recorded; and nothing is
        saved where the runs read nothing that takes a pass of the teacher for each image.
    """
    spent = [_recorded(path) for path in caches]
    seconds = None if None in spent else round(sum(s or 0.0 for s in spent), 1)
    views = sum(run.total * run.batch_size for run in runs)
    rate = _build_rate(caches[0])
    online = None if rate is None else round(views / rate, 1)
    known = online is not None and seconds is not None and _asks(caches[0], runs)
    return {
        "cached_seconds": seconds,
        "images_per_s": None if rate is None else round(rate, 2),
        "views": views,
        "online_seconds": online,
        "saved_seconds": round(online - seconds, 1) if known else None,  # type: ignore[operator]
    }


def _asks(cache: str, runs: Sequence[TrainConfig]) -> bool:
    """Whether any run learns from what a teacher's passes over images gave."""
    m = Cache(cache).manifest
    passes = {s.name for s in m.stages if not s.once and "teacher.precision" in s.facts}
    return any(passes & run.method.learns_from(m).keys() for run in runs)


def _recorded(cache: str) -> float | None:
    """Seconds of all commands that wrote this cache; None if it does not say."""
    entries = read_provenance(cache)
    return sum(float(e["seconds"]) for e in entries) if entries else None


def _build_rate(cache: str) -> float | None:
    """Views per second of the commands that computed all that the cache has of an image."""
    m = Cache(cache).manifest
    stages = [stage.name for stage in m.stages if not stage.once]
    computed = [(e.get("stages", {}), float(e["seconds"])) for e in read_provenance(cache)]
    whole = [(min(rows.get(s, 0) for s in stages), seconds) for rows, seconds in computed]
    seconds = sum(spent for rows, spent in whole if rows)
    return sum(rows for rows, _ in whole) * m.views / seconds if seconds else None
