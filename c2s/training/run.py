"""Invariant: configuration and cache decide a run; interrupting and resuming changes nothing."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from rich.console import Console

from c2s.annotation import require_annotation
from c2s.methods.base import Facts
from c2s.methods.registry import methods_of, run_defaults
from c2s.plain_torch import plain_torch
from c2s.runs.checkpoint import HALFWAY, RunError, load_weights, read_state, saved_step
from c2s.runs.config import TrainConfig
from c2s.runs.continuation import listed
from c2s.runs.folder import (
    continued,
    create_run,
    owned,
    read_config,
    read_info,
    restore_text,
    write_config,
)
from c2s.runs.run import open_run
from c2s.students import create
from c2s.students.base import Student
from c2s.students.registry import require_no_code
from c2s.text import cached_text
from c2s.training.callbacks import Bar, Saver
from c2s.training.datamodule import C2SDataModule
from c2s.training.ending import spoken, stated
from c2s.training.logs import close_loggers, create_loggers, require_loggers
from c2s.training.module import DistillationModule
from c2s.training.online import TeacherFactory, TeacherInTheLoop
from c2s.training.self_training import halfway_student
from c2s.training.signals import Interrupted, StopRequest
from c2s.training.trainer import make_trainer, quiet
from c2s.training.validation import Validation, ValidationSetFactory
from c2s_cache.errors import ConfigError, StageMissing
from c2s_cache.reader import Cache, open_cache


@plain_torch()
def train(
    config: TrainConfig,
    overwrite: bool = False,
    load_teacher: TeacherFactory | None = None,
    load_validation: ValidationSetFactory | None = None,
) -> Path:
    """Train a student from a cache.

    Args:
        config: the run; values that depend on the cache may be left open.
        overwrite: replace a run folder of the same name.
        load_teacher: loads CLIP for `teacher=online`.
        load_validation: finds the images for `validation`.

    Returns:
        The run folder.

    Raises:
        CacheError: the cache is missing, incomplete or damaged.
        RunError: a run of that name exists.
        ConfigError: the configuration does not fit.
        Interrupted: a signal asked for the end; the message says how to resume.
        ProcessLost: another process of this training has ended.
    """
    stages = config.method.read_stages()
    try:
        cache = open_cache(config.cache, stages, config.parts)
    except StageMissing as error:
        if not (others := methods_of(Cache(config.cache).manifest)):
            raise
        said = f"It can train {', '.join(others)} (c2s train --method {others[0]})."
        raise StageMissing(error.what, f"{said} {error.hint}") from error
    require_annotation(cache, stages)
    config = config.resolved(cache.manifest)
    return _fit(config, cache, 0, overwrite, load_teacher, load_validation)


@plain_torch()
def resume(
    path: Path | str,
    load_teacher: TeacherFactory | None = None,
    load_validation: ValidationSetFactory | None = None,
    settings: Sequence[str] = (),
    allow_code: bool = False,
    **options: Any,
) -> Path:
    """Continue a run from its checkpoint, exactly as if it had not been interrupted.

    What may be changed is listed in `c2s.runs.continuation`. A run that is complete goes on when it
    is given more iterations: from its checkpoint on, rates follow the schedule of that length.

    Args:
        path: run folder.
        load_teacher: loads CLIP for a run with `teacher=online`.
        load_validation: finds the images for a run with `validation`.
        settings, options: what to change; see `load_config`.
        allow_code: as for `open_run`.

    Returns:
        The same folder; a run that is complete is left alone.

    Raises:
        CacheError, Interrupted: as for `train`.
        CodeError: as for `open_run`.
        RunError: no run or no checkpoint there, or it is damaged, or the cache has changed since, or a
            setting that may not change.
    """
    path = Path(path)
    config, state = read_config(path, settings, allow_code, **options), read_state(path)
    changes = continued(path, config, state)
    require_no_code(config.student, path, allow_code)
    if "://" not in config.cache and not Path(config.cache).exists():
        raise RunError(
            f"{config.cache} is not there, the cache that {path} was trained from.",
            f"Say where it lies now: c2s train --resume {path} --cache PATH",
        )
    cache = open_cache(config.cache, config.method.read_stages(), config.parts)
    info = read_info(path)
    before, now = info.fingerprints, config.method.learns_from(cache.manifest)
    changed = [stage for stage in now if before.get(stage) != now[stage]]
    if changed:
        raise RunError(
            f"{config.cache} is not the cache that {path} was trained from: "
            f"{', '.join(changed)} {'differs' if len(changed) == 1 else 'differ'}.",
            "Restore that cache, name it where it lies with --cache, or train a new run.",
        )
    restore_text(path, cache, info)
    config = config.resolved(cache.manifest)
    if state.step >= config.total or (state.complete and "iterations" not in changes):
        open_run(path, allow_code)  # complete is what can be used
        if changes:
            raise RunError(
                f"{path} is complete, so {listed(changes)} would have no effect.",
                "Put it back in its config.yaml, or make the run longer with --iterations N.",
            )
        return path
    if state.complete and state.step < config.total and state.step < changes["iterations"][0]:
        raise RunError(
            f"{path} has stopped at iteration {state.step} because its scores did not get better "
            f"(patience {config.validation.patience if config.validation else None}).",
            "It cannot be given more iterations; train a new run without validation.patience.",
        )
    said = stated(config, state.step, changes)
    return _fit(config, cache, state.step, False, load_teacher, load_validation, said)


def _fit(
    config: TrainConfig,
    cache: Cache,
    start: int,
    overwrite: bool,
    load_teacher: TeacherFactory | None,
    load_validation: ValidationSetFactory | None,
    said: Sequence[str] = (),
) -> Path:
    quiet()
    path = config.runs / config.run_name
    require_loggers(config)
    validation = _validation(config, cache, load_validation)
    teacher = _teacher(config, cache, load_teacher)
    module = build_module(config, cache, resumed=start > 0)
    data = C2SDataModule(config, cache, teacher)
    stop = StopRequest()
    saver = Saver(path, config.checkpoint_every, validation, stop, data.require_unchanged)
    callbacks: list[pl.Callback] = [Bar(config.total, config.log_every), saver]
    trainer = make_trainer(
        config, callbacks if validation is None else [*callbacks, validation], path
    )
    first = trainer.is_global_zero
    with stop, ExitStack() as stack:
        # Only now, when nothing is left that a wrong setting could stop, does the folder appear.
        if first:
            stack.enter_context(owned(config, overwrite, new=start == 0))
            if start == 0:
                create_run(config, cache, module.student)
            elif read_state(path).step == start:
                write_config(path, config)
            else:
                raise RunError(f"Another process has trained {path} on.", "Run the command again.")
            for sentence in said:
                Console(stderr=True, markup=False).print(sentence, highlight=False)
        with (
            spoken(path, data.config, trainer.world_size > 1),
            _nothing_left_unless(path, lambda: start > 0 or not first or saver.begun),
        ):
            try:
                trainer.loggers = create_loggers(config, path, start) if first else []
                trainer.fit(module, data, ckpt_path=path / "checkpoint" if start else None)
            finally:
                close_loggers(trainer.loggers)
    if not saver.complete(module):
        raise Interrupted(
            f"Stopped by {signal.Signals(stop.number).name} at iteration {module.step} of {config.total}; "
            f"the checkpoint is saved.",
            f"Continue with: c2s train --resume {path}",
            stop.number,
        )
    return path


@contextmanager
def _nothing_left_unless(path: Path, begun: Callable[[], bool]) -> Iterator[None]:
    """Remove the new folder of a run that fails before an iteration is done; it could neither go on nor be
    used, and would be in the way."""
    try:
        yield
    except BaseException:
        if not begun() and saved_step(path) is None:
            shutil.rmtree(path, ignore_errors=True)
        raise


def _validation(
    config: TrainConfig, cache: Cache, load: ValidationSetFactory | None
) -> Validation | None:
    if config.validation is None:
        return None
    if load is None:
        raise ConfigError("validation needs a function that finds images (load_validation).")
    size = config.image_size or cache.manifest.view_size
    offset = config.method.seen_offset if config.self_train is None else 0.0
    return Validation(config.validation, load(config, cache.manifest), cache, size, offset)


def _teacher(
    config: TrainConfig, cache: Cache, load_teacher: TeacherFactory | None
) -> TeacherInTheLoop | None:
    """The online teacher, loaded before the seed is set: loading draws random numbers."""
    if config.teacher == "cache":
        return None
    if load_teacher is None:
        raise ConfigError("teacher=online needs a function that loads CLIP (load_teacher).")
    return load_teacher(config, cache.manifest)


@plain_torch()
def build_module(
    config: TrainConfig,
    cache: Cache | None = None,
    resumed: bool = False,
) -> DistillationModule:
    """Student and method at the state that the seed gives them, or that a run to continue gives.

    Of the text, only the seen classes' is read, unless this is a self-training.

    Args:
        config: the run; values that depend on the cache may be left open.
        cache: the opened cache, if it is open already.
        resumed: the weights will come from the run's checkpoint; its student is built as it says.

    Raises:
        CacheError: the cache is missing, incomplete or damaged.
        ConfigError: the student or its weights do not exist, or a setting does not fit.
    """
    cache = cache or open_cache(config.cache, config.method.read_stages(), config.parts)
    config = config.resolved(cache.manifest)
    pl.seed_everything(config.seed, workers=False, verbose=False)
    unseen = None
    student = _student(config, cache, resumed)
    if config.self_train is not None:
        if not resumed:
            weights = halfway_student(config.self_train, cache.manifest)
            load_weights(student, weights, config.self_train, config.self_train / HALFWAY)
        unseen = cached_text(cache, "unseen")
    try:
        method = config.method.build(Facts.of(cache, student, unseen))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    module = DistillationModule(student, method, config)
    names = [name for name, _ in module.named_parameters()]
    for start in config.lr_mult:
        if not any(name.startswith(start) for name in names):
            raise ConfigError(
                f"lr_mult: no parameter's name begins with {start!r}.",
                f"There are {', '.join(sorted({'.'.join(n.split('.')[:2]) + '.' for n in names}))}",
            )
    return module


def _student(config: TrainConfig, cache: Cache, resumed: bool) -> Student:
    """A new student; or that of a run to continue or start from, as it says, still without its weights.

    Raises:
        ConfigError: it cannot be made, or is none of the method's.
    """
    method = config.method
    known = config.runs / config.run_name if resumed else config.self_train
    dim, method = cache.manifest.teacher.dim, config.method
    if known is None:
        student = method.new_student(config.student, config.weights, cache)
    else:
        dim = cache.manifest.teacher.dim
        student = create(config.student, dim, "random", read_info(known).architecture)
    if not isinstance(student, method.kind):
        suited = run_defaults(method.name, cache.manifest.dataset, None)
        raise ConfigError(
            f"The method {method.name} trains a {method.kind.__name__}; {config.student} is a "
            f"{type(student).__name__}.",
            f"Leave --student out: its default here is {suited.get('student', method.student)}.",
        )
    return student
