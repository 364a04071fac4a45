"""Invariant: a live check computes sampled rows anew from the cached images alone and compares every token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2s_cache import Cache
from c2s_cache.integrity import Finding
from c2s_cache.schema import RAGGED, ragged_ranges
from c2s_pipeline.block import BlockComputer
from c2s_pipeline.kmeans import create_backend
from c2s_pipeline.teachers.base import Teacher

MIN_COSINE = 0.999
"""Smallest cosine between a stored CLS token and the same computed anew: rounding to float16, another
batch or another device stay above 0.9999, another image or other weights below."""
MIN_AGREEMENT = 0.9
"""Smallest share of a view's grid cells in the same latent class, whatever its number: a token between
two clusters may fall to either, by the last bits of another batch."""
_COMPARED = ("teacher/global_cls", "masks/grid", "regions/cls", "regions/id")
INPUTS = ("images/data", "images/size", "images/usable", "labels/data", "views/box", "views/flip")


@dataclass(frozen=True)
class SpotCheck:
    """Outcome of a live check: the rows, teacher passes, and the worst values met."""

    rows: tuple[int, ...]
    passes: int
    global_cosine: float
    region_cosine: float
    grid_agreement: float
    findings: tuple[Finding, ...]


def sample_rows(cache: Cache, count: int, seed: int) -> list[int]:
    """Usable rows drawn without replacement, ascending; all of them if there are no more than `count`."""
    usable = np.flatnonzero(cache.column("images/usable"))
    drawn = np.random.default_rng(seed).permutation(len(usable))[:count]
    return sorted(int(usable[i]) for i in drawn)


def spot_check(
    cache: Cache,
    teacher: Teacher,
    rows: Sequence[int],
    progress: Callable[[int], None] | None = None,
) -> SpotCheck:
    """Run the teacher on sampled rows and compare global CLS, grids and region CLS with what is stored.

    Region tokens are computed from the stored grids, so that a cell that fell to another cluster does
    not count twice.

    Args:
        cache: a complete cache.
        teacher: the teacher that wrote it.
        rows: usable rows.
        progress: called with 1 after each row.
    """
    manifest = cache.manifest
    backend = create_backend(manifest.requests["masks"]["backend"], teacher.device)
    computer = BlockComputer(manifest, None, teacher, backend)
    worst = {"global": 1.0, "region": 1.0, "grid": 1.0}
    findings: list[Finding] = []
    passes = 0
    for row in rows:
        block, i = divmod(row, manifest.block_rows)
        stored = _row_of(cache.read(block, (*INPUTS, "masks/grid")), i)
        grid = {"masks/grid": stored.pop("masks/grid")}
        first = computer.compute(["row"], row, ("teacher", "masks"), stored)
        second = computer.compute(["row"], row, ("regions",), stored | grid)
        passes += first.passes + second.passes
        anew = first.stages["teacher"] | first.stages["masks"] | second.stages["regions"]
        values, wrong = _compare(cache, row, anew)
        findings += [Finding("teacher", f"row {row}", what) for what in wrong]
        worst = {key: min(worst[key], values[key]) for key in worst}
        if progress is not None:
            progress(1)
    return SpotCheck(
        tuple(rows), passes, worst["global"], worst["region"], worst["grid"], tuple(findings)
    )


def _row_of(arrays: Mapping[str, NDArray[Any]], i: int) -> dict[str, NDArray[Any]]:
    """The arrays of a block, cut to one row."""
    out = {}
    for path, values in arrays.items():
        if path in RAGGED:
            start, stop = list(ragged_ranges(arrays[RAGGED[path]]))[i]
            out[path], out[RAGGED[path]] = values[start:stop], np.array([stop - start])
        elif path not in RAGGED.values():
            out[path] = values[i : i + 1]
    return out


def _compare(
    cache: Cache, row: int, anew: Mapping[str, NDArray[Any]]
) -> tuple[dict[str, float], list[str]]:
    """The worst values of a row by name, and a sentence for each that is too low."""
    m = cache.manifest
    data = cache.read_block(row // m.block_rows, _COMPARED)
    samples = [data.sample(int(np.flatnonzero(data.rows == row)[0]), v) for v in range(m.views)]
    grids = np.stack([s["masks/grid"] for s in samples])
    ids = np.concatenate([s["regions/id"] for s in samples])
    values = {
        "global": _cosine(
            anew["teacher/global_cls"][0], np.stack([s["teacher/global_cls"] for s in samples])
        ),
        "grid": min(_agreement(a, b) for a, b in zip(anew["masks/grid"][0], grids, strict=True)),
        "region": -1.0,
    }
    wrong = []
    if np.array_equal(anew["regions/id"], ids):
        stored = np.concatenate([s["regions/cls"] for s in samples])
        values["region"] = _cosine(anew["regions/cls"], stored)
        if values["region"] < MIN_COSINE:
            wrong.append(f"a region CLS has cosine {values['region']:.4f} with the teacher's")
    else:
        wrong.append("its regions are not those of its label map and grid")
    if values["global"] < MIN_COSINE:
        wrong.append(f"the global CLS has cosine {values['global']:.4f} with the teacher's")
    if values["grid"] < MIN_AGREEMENT:
        wrong.append(f"{values['grid']:.0%} of the grid cells are as clustering gives them")
    return values, wrong


def _agreement(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Share of the cells of grid `b` whose latent class is, for its most part, the same one of `a`."""
    same = sum(int(np.bincount(a[b == latent]).max()) for latent in np.unique(b))
    return same / b.size


def _cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Smallest cosine between corresponding vectors [n, D]; 1 if there are none."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    return float(((x * y).sum(-1) / np.maximum(norms, 1e-12)).min(initial=1.0))
