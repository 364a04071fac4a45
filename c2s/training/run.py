"""Invariant: configuration and cache decide a run; interrupting and resuming changes nothing."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Literal

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from c2s.methods.base import KnownClasses
from c2s.students import create
from c2s.training import checkpoint
from c2s.training.callbacks import Bar, Recorder, Saver
from c2s.training.config import TrainConfig
from c2s.training.data import BatchStream, block_sizes, loader
from c2s.training.logs import MetricsLog
from c2s.training.module import DistillationModule
from c2s.training.online import OnlineTeacher, TeacherFactory
from c2s.training.run_folder import (
    HALFWAY,
    RunError,
    create_run,
    load_weights,
    read_config,
    read_info,
)
from c2s.training.sampler import BatchSequence
from c2s.training.self_training import halfway_student
from c2s_cache.errors import C2SError, ConfigError
from c2s_cache.reader import Cache, open_cache


class Interrupted(C2SError):
    """Training was asked to stop; a checkpoint was saved."""


def train(
    config: TrainConfig, overwrite: bool = False, load_teacher: TeacherFactory | None = None
) -> Path:
    """Train a student from a cache.

    Args:
        config: the run; values that depend on the cache may be left open.
        overwrite: replace a run folder of the same name.
        load_teacher: loads CLIP for `teacher=online`.

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
    return _fit(config, cache, None, overwrite, load_teacher)


def resume(path: Path | str, load_teacher: TeacherFactory | None = None) -> Path:
    """Continue a run from its checkpoint, exactly as if it had not been interrupted.

    Args:
        path: run folder.
        load_teacher: loads CLIP for a run with `teacher=online`.

    Returns:
        The same folder; a run that is complete is left alone.

    Raises:
        CacheError, Interrupted: as for `train`.
        RunError: no run or no checkpoint there, or the cache has changed since.
    """
    path = Path(path)
    config = read_config(path).model_copy(update={"runs": path.parent, "name": path.name})
    cache = open_cache(config.cache)
    before, now = read_info(path).fingerprints, cache.manifest.fingerprints
    changed = [stage for stage in now if before.get(stage) != now[stage]]
    if changed:
        raise RunError(
            f"{config.cache} is not the cache that {path} was trained from: "
            f"{', '.join(changed)} {'differs' if len(changed) == 1 else 'differ'}.",
            "Restore that cache, or train a new run.",
        )
    state = checkpoint.load(path)
    if state.step >= config.total:
        return path
    return _fit(config, cache, state, load_teacher=load_teacher)


def _fit(
    config: TrainConfig,
    cache: Cache,
    state: checkpoint.Checkpoint | None,
    overwrite: bool = False,
    load_teacher: TeacherFactory | None = None,
) -> Path:
    _quiet()
    path = config.runs / config.run_name
    start = 0 if state is None else state.step
    teacher = _teacher(config, cache, load_teacher)
    module = build_module(config, cache, start, teacher)
    if state is not None:
        checkpoint.restore_modules(state, path, module.student, module.method)
    sequence = _sequence(config, cache)
    # Only now, when nothing is left that a wrong setting could stop, does the folder appear.
    first = int(os.environ.get("LOCAL_RANK", "0")) == 0
    if state is None and first:
        create_run(config, cache, module.student, overwrite)
    saver = Saver(path, config.checkpoint_every, state)
    log = MetricsLog(path, start) if first else None
    trainer = _trainer(config, saver, log, start)
    size = config.image_size or cache.manifest.view_size
    part = (trainer.global_rank, trainer.world_size)
    stream = BatchStream(
        cache.address,
        sequence,
        start,
        config.total,
        size,
        config.jitter,
        *part,
        teacher_sizes=() if teacher is None else teacher.sizes,
        fresh=config.augment if config.views == "fresh" else None,
        transductive=config.self_train is not None,
    )
    on_gpu = trainer.strategy.root_device.type == "cuda"
    try:
        trainer.fit(module, loader(stream, config.workers, on_gpu))
    except torch.OutOfMemoryError as error:
        raise C2SError(
            f"GPU memory ran out at batch size {config.batch_size} and {size} pixels.",
            "Lower --batch-size, or take --set precision=bf16-mixed or method.supervision=features.",
        ) from error
    if log is not None:
        log.close()
    if saver.stopped_by is not None and module.step < config.total:
        raise Interrupted(
            f"Stopped by {saver.stopped_by} at iteration {module.step} of {config.total}; "
            f"the checkpoint is saved.",
            f"Continue with: c2s train --resume {path}",
        )
    return path


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
    config: TrainConfig, cache: Cache, start: int, teacher: OnlineTeacher | None
) -> DistillationModule:
    """Student and method at the state that the seed gives them, or that a run to continue gives.

    Of the text, only the seen classes' is read, unless this is a self-training.
    """
    pl.seed_everything(config.seed, workers=False, verbose=False)
    unseen = None
    student = _student(config, cache.manifest.teacher.dim, start > 0)
    if config.self_train is not None:
        weights = halfway_student(config.self_train, cache.manifest)
        load_weights(student, weights, config.self_train / HALFWAY)
        unseen = _classes(cache, "unseen")
    try:
        method = config.method.build(_classes(cache, "seen"), unseen)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return DistillationModule(student, method, config, start, teacher)


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


def _sequence(config: TrainConfig, cache: Cache) -> BatchSequence:
    sizes = block_sizes(cache)
    if sum(sizes) == 0:
        raise ConfigError(
            f"{config.cache} has no usable image.", f"See: c2s cache info {config.cache}"
        )
    if config.batch_size % config.devices:
        raise ConfigError(
            f"batch_size {config.batch_size} is no multiple of devices {config.devices}."
        )
    return BatchSequence(sizes, config.batch_size, config.seed, config.window, cache.manifest.views)


def _trainer(config: TrainConfig, saver: Saver, log: MetricsLog | None, start: int) -> pl.Trainer:
    callbacks: list[pl.Callback] = [Bar(config.total, start, config.log_every)]
    if log is not None:
        callbacks.append(Recorder(log, config.log_every))
    try:
        return _lightning_trainer(config, [*callbacks, saver], start)
    except MisconfigurationException as error:
        raise ConfigError(f"accelerator={config.accelerator}: {error}") from error


def _lightning_trainer(config: TrainConfig, callbacks: list[pl.Callback], start: int) -> pl.Trainer:
    several = config.devices > 1
    on_gpu = config.accelerator != "cpu" and torch.cuda.is_available()
    return pl.Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        # A batch without any latent class leaves the latent embedding's parameters unused.
        strategy="ddp_find_unused_parameters_true" if several else "auto",
        sync_batchnorm=several and on_gpu,
        precision=config.precision,
        max_steps=config.total - start,
        callbacks=callbacks,
        logger=False,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _quiet() -> None:
    """Keep Lightning's hints (more workers, no validation loop, tips) off the user's terminal."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric|lightning")
