"""Invariant: every setting of a grid is checked before the first run begins; planning writes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from c2s.ablation.cell import run_name
from c2s.config import merge, resolve
from c2s.methods.grid import Grid, Row
from c2s.methods.recipes import Recipe
from c2s.methods.registry import DEFAULT, named, run_defaults
from c2s.runs.config import TrainConfig, load_config
from c2s.shapes.defaults import own_teacher
from c2s.students.registry import require_no_code
from c2s_cache import ConfigError, Manifest, open_cache
from c2s_cache.fingerprint import canonical_json, digest


@dataclass(frozen=True)
class Request:
    """What a user asks for beside the grids.

    Attributes:
        cache: complete cache that every row trains from, or derives its own from; directory or URL.
        out: folder of runs, derived caches and reports.
        recipe: settings of all rows.
        file, settings: `--config` and `--set`, above the recipe.
        options: fields of `TrainConfig`, above both; None: not given.
        method: whose runs.
        students: in place of the grids' own; empty: theirs.
        seeds: in place of the grids' own; None: theirs.
        teacher, pretrained: of caches to derive, if the teacher is not where it was.
        allow_code: `file` may name a method that is code of one's own.
    """

    cache: str
    out: Path
    recipe: Recipe = field(default_factory=Recipe)
    file: Path | None = None
    settings: Sequence[str] = ()
    options: dict[str, Any] = field(default_factory=dict)
    method: str = DEFAULT
    students: tuple[str, ...] = ()
    seeds: int | None = None
    teacher: str | None = None
    pretrained: str | None = None
    allow_code: bool = False


@dataclass(frozen=True)
class Line:
    """A row with a student: one run per seed.

    Attributes:
        row: of the grid.
        student: name.
        runs: resolved configurations, one per seed; equal ones in other lines are the same run. None of a row that
            the cache does not fit.
        misfit: why it does not, as a sentence; None: it does.
    """

    row: Row
    student: str
    runs: tuple[TrainConfig, ...]
    misfit: str | None = None


@dataclass(frozen=True)
class Plan:
    """What is to be run.

    Attributes:
        request: what was asked for.
        tables: per grid its lines, in the grid's order.
        derived: caches to derive first: path -> nested values of `BuildRequest` that differ, as JSON has them.
    """

    request: Request
    tables: tuple[tuple[Grid, tuple[Line, ...]], ...]
    derived: dict[Path, dict[str, Any]]

    @property
    def runs(self) -> list[TrainConfig]:
        """Every run once, in the order of the tables, all rows of a seed before the next seed."""
        lines = [line for _, lines in self.tables for line in lines]
        most = max(len(line.runs) for line in lines)
        found = [line.runs[i] for i in range(most) for line in lines if i < len(line.runs)]
        return list({run.run_name: run for run in found}.values())

    def labels(self) -> dict[str, str]:
        """What each run is in the tables, by its name: grid, row, student and seed of its first place."""
        found = dict[str, str]()
        for grid, lines in self.tables:
            for line in lines:
                for run in line.runs:
                    what = f"{grid.name} {line.row.name}, {line.student}, seed {run.seed}"
                    found.setdefault(run.run_name, what)
        return found

    @property
    def parts(self) -> list[Plan]:
        """Each table as a plan of its own."""
        used = [{run.cache for line in lines for run in line.runs} for _, lines in self.tables]
        return [
            Plan(
                self.request, (table,), {p: c for p, c in self.derived.items() if str(p) in caches}
            )
            for table, caches in zip(self.tables, used, strict=True)
        ]


def make_plan(grids: Sequence[Grid], request: Request) -> Plan:
    """Resolve every row of every grid.

    Raises:
        CacheError: the cache is missing or not complete.
        ConfigError: a wrong setting, no row that the cache fits, or one that needs a cache that cannot be derived.
        CodeError: a file or a grid names a method that is code, not allowed.
    """
    manifest = open_cache(request.cache).manifest
    derived: dict[Path, dict[str, Any]] = {}
    tables = []
    for grid in grids:
        lines = []
        for row in grid.rows:
            changes = merge(request.recipe.build, row.build)
            cache = _cache(request, manifest, changes)
            for student in request.students or grid.students or (None,):
                runs = [
                    _resolve(grid, row, student, seed, cache, request, manifest)
                    for seed in range(request.seeds or grid.seeds)
                ]
                misfit = _misfit(runs[0], manifest)
                kept = () if misfit is not None else tuple(runs)
                lines.append(Line(row, runs[0].student, kept, misfit))
                if kept and isinstance(cache, Path):
                    _, want = build_requests(request, manifest, changes)
                    derived[cache] = _picked(want.model_dump(mode="json"), changes)
        tables.append((grid, tuple(lines)))
    every = [line for _, lines in tables for line in lines]
    if all(line.misfit is not None for line in every):
        raise ConfigError(f"No row fits {request.cache}: {every[0].misfit}")
    return Plan(request, tuple(tables), derived)


def _misfit(run: TrainConfig, manifest: Manifest) -> str | None:
    """Why a run cannot be of this cache, as far as its manifest tells."""
    try:
        run.method.require_fit(manifest)
    except ConfigError as error:
        return str(error)
    return None


def _picked(values: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    """Those of nested values that `keys` has."""
    return {
        key: _picked(values[key], inner) if isinstance(inner, Mapping) else values[key]
        for key, inner in keys.items()
    }


def _resolve(
    grid: Grid,
    row: Row,
    student: str | None,
    seed: int,
    cache: Path | str,
    request: Request,
    manifest: Manifest,
) -> TrainConfig:
    """Data set, recipe, grid, file, --set, options; the row's own settings on top of all."""
    defaults = merge(run_defaults(request.method, manifest.dataset, student), request.recipe.train)
    defaults = merge(defaults, {"method": {"name": request.method}})
    place = {"cache": cache, "runs": request.out / "runs", "student": student, "seed": seed}
    given = {k: v for k, v in {**request.options, **place}.items() if v is not None}
    for values in (grid.train, row.train):
        name = named(values.get("method"))
        allowed = request.allow_code or name == request.method
        require_no_code(name, f"The grid {grid.name}", allowed, "method")
    config = load_config(
        request.file,
        request.settings,
        merge(defaults, grid.train),
        request.allow_code,
        **merge(given, row.train),
    )
    config = config.resolved(manifest)
    derived = cache.name if isinstance(cache, Path) else ""
    known = {"base": config.method.learns_from(manifest), "derived": derived}
    return config.model_copy(update={"name": run_name(config, known)})


def _cache(request: Request, manifest: Manifest, changes: dict[str, Any]) -> Path | str:
    """The cache that has these build settings: the given one (str), or where a derived one is to lie.

    Raises:
        ConfigError: one would have to be derived from a cache that is not on a local disk.
    """
    if not changes:
        return request.cache
    have, want = build_requests(request, manifest, changes)
    if have == want:
        return request.cache
    code = digest(
        canonical_json(
            want.model_dump(mode="json", exclude={"teacher", "pretrained", "check_text"})
        )
    )
    if "://" in request.cache:
        raise ConfigError(
            f"Rows that change the build ({json.dumps(changes)}) derive a cache, but {request.cache} is remote.",
            "Copy it to a local disk first.",
        )
    stem = Path(request.cache).name.removesuffix(".zarr")
    return request.out / "caches" / f"{stem}-{code[:10]}.zarr"


def build_requests(
    request: Request, manifest: Manifest, changes: dict[str, Any]
) -> tuple[Any, Any]:
    """The `BuildRequest` of the given cache, and the same with changes."""

    from c2s_pipeline.build.request import recorded_request, request_model

    teacher = request.teacher or own_teacher(manifest.teacher.name)
    options = {"teacher": teacher, "pretrained": request.pretrained}
    recorded = recorded_request(manifest).model_dump()
    if request.teacher not in (None, recorded["teacher"]):
        recorded["pretrained"] = None  # the recorded weights are another teacher's
    model = request_model()
    have = resolve(model, recorded, None, (), options)
    return have, resolve(model, have.model_dump(), None, (), changes)
