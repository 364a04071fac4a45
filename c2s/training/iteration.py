"""Invariant: what is done once an iteration is done after its last micro-batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import pytorch_lightning as pl

from c2s.methods.batch import Batch
from c2s.training.module import DistillationModule


class IterationCallback(pl.Callback, ABC):
    """Acts after iterations, however many micro-batches each has."""

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Act if this was the last micro-batch of an iteration."""
        assert isinstance(module, DistillationModule)
        if module.ends_iteration(batch_idx):
            self.on_iteration_end(trainer, module, outputs, batch)

    @abstractmethod
    def on_iteration_end(
        self, trainer: pl.Trainer, module: DistillationModule, outputs: Any, batch: Batch
    ) -> None:
        """Act; `outputs` and `batch` are those of the last micro-batch."""
