"""Invariant: the module only joins student, method and schedule; losses live in the method."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from c2s.methods.base import Method
from c2s.methods.batch import Batch
from c2s.students.base import IMAGENET_MEAN, IMAGENET_STD, parameter_groups
from c2s.training.config import TrainConfig
from c2s.training.schedule import lr_factor


def normalize_images(images: Tensor) -> Tensor:
    """uint8 RGB [B, 3, H, W] to float32, normalised with the ImageNet mean and deviation."""
    mean = torch.tensor(IMAGENET_MEAN, device=images.device)[:, None, None]
    std = torch.tensor(IMAGENET_STD, device=images.device)[:, None, None]
    return (images.float() / 255 - mean) / std


class DistillationModule(pl.LightningModule):
    """One training step: images through the student, features through the method.

    Args:
        student: the student.
        method: the objective, built for the seen classes.
        config: resolved configuration.
        start: iterations done before this fit began.
    """

    def __init__(
        self, student: nn.Module, method: Method, config: TrainConfig, start: int = 0
    ) -> None:
        super().__init__()
        self.student = student
        self.method = method
        self.config = config
        self.start = start

    @property
    def step(self) -> int:
        """Iterations done since the beginning of the run."""
        return self.start + self.global_step

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Losses of one batch, "loss" among them."""
        losses: dict[str, Tensor] = self.method(self.student(normalize_images(batch.image)), batch)
        return losses

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Move a batch; from page-locked memory without waiting."""
        return batch.to(device, non_blocking=True)

    def configure_optimizers(self) -> Any:
        """AdamW with the stock parameter groups and the schedule by absolute iterations."""
        config = self.config
        groups = parameter_groups(self, config.lr, config.weight_decay, config.head_lr_mult)
        optimizer = torch.optim.AdamW(groups)
        warmup = config.warmup or 0

        def factor(step: int) -> float:
            return lr_factor(self.start + step, config.total, warmup, config.poly_power)

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }
