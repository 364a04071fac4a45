"""Invariant: callbacks watch and save; they never change what is learnt."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from c2s.methods.batch import Batch
from c2s.runs.checkpoint import saved_step
from c2s.runs.tensors import NotFinite, require_finite
from c2s.training import checkpoint_io
from c2s.training.iteration import IterationCallback
from c2s.training.module import DistillationModule
from c2s.training.signals import StopRequest
from c2s.training.validation import Validation
from c2s_cache.errors import C2SError


class Saver(IterationCallback, pl.callbacks.Checkpoint):
    """Saves every `every` iterations, at the end, and when a signal asks to stop.

    At half the schedule of an inductive run it also keeps the student for a later self-training.
    Lightning runs it after all other callbacks, so that a checkpoint holds what they have done.

    Args:
        run: its folder.
        every: iterations.
        validation: of the run.
        stop: what signals ask for.
        unchanged: raises a `CacheError` if the cache is not what it was where an iteration has read it; asked once a
            checkpoint is saved.

    Attributes:
        begun: an iteration is done.
    """

    def __init__(
        self,
        run: Path,
        every: int,
        validation: Validation | None,
        stop: StopRequest,
        unchanged: Callable[[int], None],
    ) -> None:
        self.run, self.every, self.validation, self.stop = run, every, validation, stop
        self.unchanged = unchanged
        self.begun = False

    def on_iteration_end(
        self, trainer: pl.Trainer, module: DistillationModule, outputs: Any, batch: Batch
    ) -> None:
        """Save if it is time to; stop if any process was asked to, all after the same iteration."""
        self.begun = True
        if trainer.world_size > 1:
            number = torch.tensor(self.stop.number, device=module.device)
            self.stop.number = int(trainer.strategy.reduce(number, reduce_op="max"))
        if self.stop.number:
            trainer.should_stop = True
        config, step = module.config, module.step
        half = step == config.total // 2 and config.self_train is None
        save = trainer.should_stop or step % self.every == 0 or step == config.total
        if not (half or save):
            return
        module.require_finite_losses()
        require_finite(module.state_dict(), f"iteration {step}")
        module.require_finite_scores(batch)
        try:
            with self.stop.saving():
                if half and trainer.is_global_zero:
                    checkpoint_io.save_halfway(self.run, module.trained_student)
                if save:
                    trainer.save_checkpoint(self.run / "checkpoint")
        except OSError as error:
            raise C2SError(
                f"The checkpoint of iteration {step} cannot be written to {self.run} ({error}).",
                "Make room there.",
            ) from error
        if save and not self.complete(module):
            self.unchanged(step)

    def complete(self, module: DistillationModule) -> bool:
        """Whether nothing is left to train: all iterations are done, or patience has run out."""
        exhausted = self.validation is not None and self.validation.exhausted
        return exhausted or module.step >= module.config.total

    def on_save_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say in the checkpoint whether the run is complete, and with which settings it was trained."""
        assert isinstance(module, DistillationModule)
        checkpoint["complete"] = self.complete(module)
        checkpoint["config"] = module.config.model_dump(mode="json")

    def on_exception(
        self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Save the last iteration, if it is whole."""
        assert isinstance(module, DistillationModule)
        progress = trainer.fit_loop.epoch_loop.batch_progress.current
        whole = progress.ready == progress.completed and module.ends_iteration(progress.ready - 1)
        failed = isinstance(exception, NotFinite) or not isinstance(exception, Exception)
        if whole and not failed and trainer.is_global_zero:
            self._save_alone(trainer, module)

    def _save_alone(self, trainer: pl.Trainer, module: DistillationModule) -> None:
        """Save without the other processes, which may be gone; if it cannot be, the checkpoint before stays."""
        if module.step in (0, saved_step(self.run)) or module.failed:
            return
        state = trainer._checkpoint_connector.dump_checkpoint()
        with suppress(OSError, NotFinite), self.stop.saving():
            trainer.strategy.checkpoint_io.save_checkpoint(state, self.run / "checkpoint")


class Bar(IterationCallback):
    """Progress on stderr: a bar, or without a terminal a line per `every` iterations."""

    def __init__(self, total: int, every: int) -> None:
        self.total, self.every, self.first = total, every, 0
        self.console = Console(stderr=True)
        self.progress = Progress(
            TextColumn("train {task.completed}/{task.total}"),
            BarColumn(),
            TextColumn("{task.fields[rate]} it/s, loss {task.fields[loss]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task: TaskID | None = None
        self._since = 0.0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Show the bar."""
        assert isinstance(module, DistillationModule)
        self.first, self._since = module.step, time.perf_counter()
        self.task = self.progress.add_task(
            "train", total=self.total, completed=self.first, rate="-", loss="-"
        )
        if trainer.is_global_zero:
            self.progress.start()

    def on_iteration_end(
        self, trainer: pl.Trainer, module: DistillationModule, outputs: Any, batch: Batch
    ) -> None:
        """Advance the bar; the loss is read rarely, because reading it waits for the device."""
        assert self.task is not None
        step = module.step
        self.progress.update(self.task, completed=step)
        if not trainer.is_global_zero or (step % self.every and step != self.total):
            return
        rate = (step - self.first) / max(time.perf_counter() - self._since, 1e-9)
        loss = float(outputs["loss"].detach()) * module.config.accumulate
        self.progress.update(self.task, rate=f"{rate:.2f}", loss=f"{loss:.3f}")
        if not self.console.is_terminal:
            left = (self.total - step) / max(rate, 1e-9)
            text = f"train {step}/{self.total}, {rate:.2f} it/s, {left:.0f} s left, loss {loss:.3f}"
            self.console.print(text, markup=False, highlight=False)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Remove the bar."""
        self.progress.stop()

    def on_exception(
        self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Remove the bar."""
        self.progress.stop()
