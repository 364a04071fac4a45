"""Invariant: a record is of one iteration, over all of its micro-batches and processes."""

from __future__ import annotations

import time
from typing import Any, Protocol, cast

import pytorch_lightning as pl
import torch
from rich.console import Console
from torch import Tensor
from torch.optim import Optimizer

from c2s.methods.base import CONCERNED, Method
from c2s.methods.batch import Batch
from c2s.runs.config import TrainConfig


class Recorded(Protocol):
    """What is recorded of a module that trains."""

    config: TrainConfig
    method: Method
    step: int

    def ends_iteration(self, batch_idx: int) -> bool: ...
    def require_finite_losses(self) -> None: ...


class Recorder(pl.Callback):
    """Sends losses, learning rates and speed to the trainer's loggers every `every` iterations.

    Losses are means over micro-batches and processes. `images_per_s` counts what happened since the
    last record, checkpoints and validation included.

    Raises:
        NotFinite: a loss since the beginning is not finite.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self._since, self._steps = 0.0, 0
        self._rates: list[float] = []
        self._losses: dict[str, Tensor] = {}
        self._concerned = False

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
        m = cast(Recorded, module)
        for name, value in outputs.items():
            if isinstance(value, Tensor):
                # Lightning has divided the one to minimise already.
                part = value.detach() if name == "loss" else value.detach() / m.config.accumulate
                self._losses[name] = self._losses[name] + part if name in self._losses else part
        if not m.ends_iteration(batch_idx):
            return
        losses, self._losses = self._losses, {}
        self._steps += 1
        if m.step % self.every and m.step != trainer.max_steps:
            return
        m.require_finite_losses()
        means = trainer.strategy.reduce(torch.stack(list(losses.values())), reduce_op="mean")
        record = dict(zip(losses, means.tolist(), strict=True))
        now = time.perf_counter()
        record |= {f"lr{i}": rate for i, rate in enumerate(self._rates)}
        record["images_per_s"] = self._steps * m.config.batch_size / (now - self._since)
        self._since, self._steps = now, 0
        if trainer.is_global_zero:
            self._heed(m, record)
        for logger in trainer.loggers:
            logger.log_metrics(record, m.step)

    def _heed(self, module: Recorded, record: dict[str, float]) -> None:
        """Say once what the method has reason to warn of."""
        if self._concerned or module.step < CONCERNED:
            return
        said = module.method.concern(record)
        if said is not None:
            self._concerned = True
            text = f"note: iteration {module.step}: {said}"
            Console(stderr=True, markup=False, soft_wrap=True).print(text, highlight=False)
