"""Invariant: callbacks watch and save; they never change what is learnt."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError
from torch.optim import Optimizer

from c2s.methods.batch import Batch
from c2s.training import checkpoint
from c2s.training.logs import MetricsLog
from c2s.training.module import DistillationModule
from c2s_cache.errors import C2SError


class Saver(pl.Callback):
    """Saves every `every` iterations, at the end, and when SIGINT or SIGTERM asks to stop.

    At half the schedule of an inductive run it also keeps the student for a later self-training.

    Restores a checkpoint's optimizer, scaler and random state when the fit begins.

    Attributes:
        stopped_by: name of the signal that ended the fit early, else None.
    """

    def __init__(self, run: Path, every: int, resume: checkpoint.Checkpoint | None) -> None:
        self.run, self.every, self.resume = run, every, resume
        self.stopped_by: str | None = None
        self._saved = -1
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Set signal handlers; Lightning has put its own in place before this."""
        if self.resume is not None:
            checkpoint.restore_optimizer(self.resume, trainer.optimizers[0])
            if self.resume.scaler:
                trainer.precision_plugin.load_state_dict(self.resume.scaler)

        def stop(number: int, _: FrameType | None) -> None:
            if self.stopped_by is not None:
                raise KeyboardInterrupt
            self.stopped_by = signal.Signals(number).name

        if threading.current_thread() is threading.main_thread():  # Python allows it there only
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, stop)

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """The random state is set here, after all that setting up may have drawn from it."""
        if batch_idx == 0 and self.resume is not None:
            checkpoint.restore_random(self.resume)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Save if it is time to; stop if any process was asked to, all after the same iteration."""
        assert isinstance(module, DistillationModule)
        stop = self.stopped_by is not None
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop:
            trainer.should_stop = True
        config = module.config
        if module.step == config.total // 2 and config.self_train is None:
            self._write(trainer, module, lambda: checkpoint.save_halfway(self.run, module.student))
        if stop or module.step % self.every == 0:
            self._save(trainer, module)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Save the last state and give the signals back."""
        assert isinstance(module, DistillationModule)
        self._save(trainer, module)
        self._release()

    def on_exception(
        self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Give the signals back; a state that failed is not worth saving."""
        self._release()

    def _save(self, trainer: pl.Trainer, module: DistillationModule) -> None:
        if module.step == self._saved:
            return
        state = (trainer.optimizers[0], trainer.precision_plugin.state_dict())
        parts = (module.step, module.student, module.method, *state)
        self._write(trainer, module, lambda: checkpoint.save(self.run, *parts))
        self._saved = module.step

    def _write(
        self, trainer: pl.Trainer, module: DistillationModule, save: Callable[[], None]
    ) -> None:
        """Let the first process write, and turn a full disk into one sentence."""
        if not trainer.is_global_zero:
            return
        try:
            save()
        except (OSError, SafetensorError) as error:
            raise C2SError(
                f"The checkpoint of iteration {module.step} cannot be written to {self.run} ({error}).",
                f"Make room there, then continue with: c2s train --resume {self.run}",
            ) from error

    def _release(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()


class Recorder(pl.Callback):
    """Writes losses, learning rates and speed to the metrics files every `every` iterations.

    Raises:
        C2SError: the loss is not finite (checked when it is recorded).
    """

    def __init__(self, log: MetricsLog, every: int) -> None:
        self.metrics, self.every = log, every
        self._since, self._steps = 0.0, 0
        self._rates: list[float] = []

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Keep the rates of this step; after it the scheduler has moved on."""
        self._rates = [group["lr"] for group in optimizer.param_groups]

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Start the clock."""
        self._since, self._steps = time.perf_counter(), 0

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Record if it is time to; only then are losses brought to the host."""
        assert isinstance(module, DistillationModule)
        self._steps += 1
        if module.step % self.every and module.step != module.config.total:
            return
        losses = {k: float(v.detach()) for k, v in outputs.items() if isinstance(v, torch.Tensor)}
        if losses["loss"] != losses["loss"] or abs(losses["loss"]) == float("inf"):
            raise C2SError(
                f"The loss is {losses['loss']} at iteration {module.step}.",
                "Lower lr, or train with --set precision=32-true.",
            )
        now = time.perf_counter()
        rates = {f"lr{i}": rate for i, rate in enumerate(self._rates)}
        speed = {"images_per_s": self._steps * module.config.batch_size / (now - self._since)}
        self._since, self._steps = now, 0
        if trainer.is_global_zero:
            self.metrics.write(module.step, losses | rates | speed)


class Bar(pl.Callback):
    """Progress on stderr: a bar, or without a terminal a line per `every` iterations."""

    def __init__(self, total: int, start: int, every: int) -> None:
        self.every = every
        self.console = Console(stderr=True)
        self.progress = Progress(
            TextColumn("train {task.completed}/{task.total}"),
            BarColumn(),
            TextColumn("{task.fields[rate]} it/s, loss {task.fields[loss]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.total, self.first = total, start
        self.task: TaskID | None = None
        self._since = 0.0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Show the bar."""
        self._since = time.perf_counter()
        self.task = self.progress.add_task(
            "train", total=self.total, completed=self.first, rate="-", loss="-"
        )
        if trainer.is_global_zero:
            self.progress.start()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Advance the bar; the loss is read rarely, because reading it waits for the device."""
        assert isinstance(module, DistillationModule)
        assert self.task is not None
        step = module.step
        self.progress.update(self.task, completed=step)
        if not trainer.is_global_zero or (step % self.every and step != self.total):
            return
        rate = (step - self.first) / max(time.perf_counter() - self._since, 1e-9)
        loss = float(outputs["loss"].detach())
        self.progress.update(self.task, rate=f"{rate:.2f}", loss=f"{loss:.3f}")
        if not self.console.is_terminal:
            left = (self.total - step) / max(rate, 1e-9)
            text = f"train {step}/{self.total}, {rate:.2f} it/s, {left:.0f} s left, loss {loss:.3f}"
            self.console.print(text, highlight=False)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Remove the bar."""
        self.progress.stop()

    def on_exception(
        self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Remove the bar."""
        self.progress.stop()
