"""Invariant: configuration and cache decide a run; interrupting and resuming changes nothing."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from rich.console import Console
from torch import nn

from c2s.methods.base import KnownClasses
from c2s.students import create
from c2s.training import checkpoint
from c2s.training.callbacks import Bar, Saver
from c2s.training.config import TrainConfig
from c2s.training.continuation import listed
from c2s.training.datamodule import C2SDataModule
from c2s.training.logs import close_loggers, create_loggers, require_loggers
from c2s.training.module import DistillationModule
from c2s.training.online import OnlineTeacher, TeacherFactory
from c2s.training.run_folder import (
    HALFWAY,
    RunError,
    continued,
    create_run,
    load_weights,
    open_run,
    read_config,
    read_info,
    read_state,
    saved_step,
    write_config,
)
from c2s.training.schedule import lr_factor
from c2s.training.self_training import halfway_student
from c2s.training.tensors import NotFinite
from c2s.training.validation import Validation, ValidationSetFactory
from c2s_cache.errors import C2SError, ConfigError, of_gpu_memory
from c2s_cache.reader import Cache, open_cache


class Interrupted(C2SError):
    """Training was asked to stop; a checkpoint was saved."""


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
        Interrupted: SIGINT or SIGTERM; the message says how to resume.
    """
    cache = open_cache(config.cache)
    config = config.resolved(cache.manifest.dataset, cache.manifest.view_size)
    return _fit(config, cache, 0, overwrite, load_teacher, load_validation)


def resume(
    path: Path | str,
    load_teacher: TeacherFactory | None = None,
    load_validation: ValidationSetFactory | None = None,
    settings: Sequence[str] = (),
    **options: Any,
) -> Path:
    """Continue a run from its checkpoint, exactly as if it had not been interrupted.

    What may be changed is listed in `c2s.training.continuation`. A run that is complete goes on when it
    is given more iterations: from its checkpoint on, rates follow the schedule of that length.

    Args:
        path: run folder.
        load_teacher: loads CLIP for a run with `teacher=online`.
        load_validation: finds the images for a run with `validation`.
        settings, options: what to change; see `load_config`.

    Returns:
        The same folder; a run that is complete is left alone.

    Raises:
        CacheError, Interrupted: as for `train`.
        RunError: no run or no checkpoint there, or it is damaged, or the cache has changed since, or a
            setting that may not change.
    """
    path = Path(path)
    config, state = read_config(path, settings, **options), read_state(path)
    changes = continued(path, config, state)
    cache = open_cache(config.cache)
    before, now = read_info(path).fingerprints, cache.manifest.fingerprints
    changed = [stage for stage in now if before.get(stage) != now[stage]]
    if changed:
        raise RunError(
            f"{config.cache} is not the cache that {path} was trained from: "
            f"{', '.join(changed)} {'differs' if len(changed) == 1 else 'differ'}.",
            "Restore that cache, name it where it lies with --cache, or train a new run.",
        )
    config = config.resolved(cache.manifest.dataset, cache.manifest.view_size)
    if state.step >= config.total or (state.complete and "iterations" not in changes):
        open_run(path)  # complete is what can be used
        return path
    if state.complete and state.step < config.total and state.step < changes["iterations"][0]:
        raise RunError(
            f"{path} has stopped at iteration {state.step} because its scores did not get better "
            f"(patience {config.validation.patience if config.validation else None}).",
            "It cannot be given more iterations; train a new run without validation.patience.",
        )
    said = _stated(config, state.step, changes)
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
    _quiet()
    path = config.runs / config.run_name
    require_loggers(config)
    validation = _validation(config, cache, load_validation)
    teacher = _teacher(config, cache, load_teacher)
    module = build_module(config, cache, teacher, resumed=start > 0)
    data = C2SDataModule(config, cache, () if teacher is None else teacher.sizes)
    saver = Saver(path, config.checkpoint_every, validation)
    callbacks: list[pl.Callback] = [Bar(config.total, config.log_every), saver]
    trainer = _trainer(config, callbacks if validation is None else [*callbacks, validation])
    # Only now, when nothing is left that a wrong setting could stop, does the folder appear.
    if trainer.is_global_zero:
        if start == 0:
            create_run(config, cache, module.student, overwrite)
        else:
            write_config(path, config)
        for sentence in said:
            Console(stderr=True).print(sentence, highlight=False)
    trainer.loggers = create_loggers(config, path, start)
    try:
        trainer.fit(module, data, ckpt_path=path / "checkpoint" if start else None)
    except RuntimeError as error:
        if not of_gpu_memory(error):
            raise
        memory = C2SError(
            f"GPU memory ran out at batch size {config.batch_size} and {data.config.image_size} pixels.",
            "Take --set accumulate=2 (or 4, ...), precision=bf16-mixed or method.supervision=features.",
        )
        raise C2SError(memory.what, _way_on(path, memory)) from error
    except OSError as error:
        raise C2SError(f"Training has stopped: {error}.", _way_on(path)) from error
    except RunError:  # no checkpoint of this run, so none to go on from
        raise
    except C2SError as error:
        raise type(error)(error.what, _way_on(path, error)) from error
    finally:
        close_loggers(trainer.loggers)
    if trainer.is_global_zero and not saver.complete(module):
        signal = saver.stopped_by or "a signal to another process"
        raise Interrupted(
            f"Stopped by {signal} at iteration {module.step} of {config.total}; "
            f"the checkpoint is saved.",
            f"Continue with: c2s train --resume {path}",
        )
    return path


def _way_on(path: Path, error: C2SError | None = None) -> str:
    """The hint of an error that ended a training, and how the run goes on."""
    step = saved_step(path)
    hints = [] if error is None or error.hint is None else [error.hint]
    if step is None:
        hints.append("There is no checkpoint yet: start the run again with --overwrite.")
    else:
        lower = isinstance(error, NotFinite)
        more = " --set lr=RATE with a lower rate, or --set precision=32-true" if lower else ""
        hints.append(
            f"The checkpoint of iteration {step} is kept. Continue with: c2s train --resume {path}{more}"
        )
    return " ".join(hints)


def _stated(config: TrainConfig, step: int, changes: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """What a run that goes on with other settings does from now on."""
    if not changes:
        return []
    said = [f"From iteration {step} on: {listed(changes)}."]
    if "iterations" in changes:
        before, total = changes["iterations"]
        warmup, power = config.warmup or 0, config.poly_power
        first, then = (lr_factor(step, n, warmup, power) for n in (before, total))
        said.append(
            f"The learning rate follows the schedule of {total} iterations: it goes on at {then:.3g} of its "
            f"full value, where that of {before} had {first:.3g}."
        )
    return said


def _validation(
    config: TrainConfig, cache: Cache, load: ValidationSetFactory | None
) -> Validation | None:
    if config.validation is None:
        return None
    if load is None:
        raise ConfigError("validation needs a function that finds images (load_validation).")
    size = config.image_size or cache.manifest.view_size
    return Validation(config.validation, load(config, cache.manifest), cache, size)


def _teacher(
    config: TrainConfig, cache: Cache, load_teacher: TeacherFactory | None
) -> OnlineTeacher | None:
    """The online teacher, loaded before the seed is set: loading draws random numbers."""
    if config.teacher == "cache":
        return None
    if load_teacher is None:
        raise ConfigError("teacher=online needs a function that loads CLIP (load_teacher).")
    return load_teacher(config, cache.manifest)


def build_module(
    config: TrainConfig,
    cache: Cache | None = None,
    teacher: OnlineTeacher | None = None,
    resumed: bool = False,
) -> DistillationModule:
    """Student and method at the state that the seed gives them, or that a run to continue gives.

    Of the text, only the seen classes' is read, unless this is a self-training.

    Args:
        config: the run; values that depend on the cache may be left open.
        cache: the opened cache, if it is open already.
        teacher: CLIP in the loop.
        resumed: the weights will come from the run's checkpoint; its student is built as it says.

    Raises:
        CacheError: the cache is missing, incomplete or damaged.
        ConfigError: the student or its weights do not exist, or a setting does not fit.
    """
    cache = cache or open_cache(config.cache)
    config = config.resolved(cache.manifest.dataset, cache.manifest.view_size)
    pl.seed_everything(config.seed, workers=False, verbose=False)
    unseen = None
    student = _student(config, cache.manifest.teacher.dim, resumed)
    if config.self_train is not None:
        if not resumed:
            weights = halfway_student(config.self_train, cache.manifest)
            load_weights(student, weights, config.self_train / HALFWAY)
        unseen = _classes(cache, "unseen")
    try:
        method = config.method.build(_classes(cache, "seen"), unseen)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return DistillationModule(student, method, config, teacher)


def _student(config: TrainConfig, dim: int, resumed: bool) -> nn.Module:
    """A new student; or that of a run to continue or start from, as it says, still without its weights."""
    known = config.runs / config.run_name if resumed else config.self_train
    if known is None:
        return create(config.student, dim, config.weights)
    return create(config.student, dim, "random", read_info(known).architecture)


def _classes(cache: Cache, which: Literal["seen", "unseen"]) -> KnownClasses:
    text = cache.text(which)
    return KnownClasses(
        torch.from_numpy(text.class_ids),
        torch.from_numpy(text.embeddings),
        len(cache.manifest.classes),
    )


def _trainer(config: TrainConfig, callbacks: list[pl.Callback]) -> pl.Trainer:
    several = config.devices * config.nodes > 1
    on_gpu = config.accelerator != "cpu" and torch.cuda.is_available()
    try:
        return pl.Trainer(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.nodes,
            # A batch without any latent class leaves the latent embedding's parameters unused.
            strategy="ddp_find_unused_parameters_true" if several else "auto",
            sync_batchnorm=several and on_gpu,
            precision=config.precision,
            deterministic="warn" if config.deterministic else None,
            max_steps=config.total,
            accumulate_grad_batches=config.accumulate,
            callbacks=callbacks,
            plugins=[checkpoint.SafetensorsIO()],
            logger=False,
            use_distributed_sampler=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except MisconfigurationException as error:
        raise ConfigError(f"accelerator={config.accelerator}: {error}") from error


def _quiet() -> None:
    """Keep Lightning's hints (more workers, no validation loop, tips) off the user's terminal."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric|lightning")
