"""Invariant: what is stored is what its stages say it must be, and what the teacher says of the stored images again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from c2s_cache import Block, Cache
from c2s_cache.integrity import Content, Finding
from c2s_cache.manifest import USABLE
from c2s_pipeline.batch import Batch, StoredBlock
from c2s_pipeline.stages.base import Likeness
from c2s_pipeline.stages.registry import recorded_stages

if TYPE_CHECKING:
    from c2s_pipeline.teachers.base import Teacher


def content(cache: Cache) -> Content:
    """What the stages of a cache say of their values, for `c2s_cache.integrity.verify`."""
    stages = recorded_stages(cache.manifest).values()

    def inspect(block: Block) -> Iterator[Finding]:
        for stage in stages:
            yield from stage.inspect(block)

    return Content(frozenset(path for stage in stages for path in stage.inspected), inspect)


@dataclass(frozen=True)
class SpotCheck:
    """Outcome of a live check: the rows, teacher passes, the worst values met by stage, and what is wrong."""

    rows: tuple[int, ...]
    passes: int
    worst: dict[str, Likeness]
    findings: tuple[Finding, ...]


def sample_rows(cache: Cache, count: int, seed: int) -> list[int]:
    """Usable rows drawn without replacement, ascending; all of them if there are no more than `count`."""
    usable = np.flatnonzero(cache.column(USABLE))
    drawn = np.random.default_rng(seed).permutation(len(usable))[:count]
    return sorted(int(usable[i]) for i in drawn)


def spot_check(
    cache: Cache,
    teacher: Teacher,
    rows: Sequence[int],
    progress: Callable[[int], None] | None = None,
) -> SpotCheck:
    """Compute the stages of sampled rows anew and compare them with what is stored.

    Each stage is computed from what is stored of those before it, so that a cell that fell to another cluster, say,
    does not count twice.

    Args:
        cache: a complete cache.
        teacher: the teacher that wrote it.
        rows: usable rows.
        progress: called with 1 after each row.
    """
    manifest = cache.manifest
    live = {name: stage for name, stage in recorded_stages(manifest).items() if stage.live}
    worst: dict[str, Likeness] = {}
    findings: list[Finding] = []
    passes = 0
    for row in rows:
        stored = StoredBlock(cache, row // manifest.block_rows)
        batch = Batch(manifest, [row], ["row"], stored, None, lambda: teacher, teacher.device.type)
        for name, stage in live.items():
            anew = stage.compute(batch)
            likeness = stage.compare({path: batch.items(path) for path in anew}, anew)
            if name not in worst or likeness.value < worst[name].value:
                worst[name] = likeness
            if likeness.value < likeness.at_least:
                what = f"{likeness.what} is {likeness.value:.4f}, expected at least {likeness.at_least}"
                findings.append(Finding(name, f"row {row}", what))
        passes += batch.passes
        if progress is not None:
            progress(1)
    return SpotCheck(tuple(rows), passes, worst, tuple(findings))
