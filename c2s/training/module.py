"""Invariant: the module only joins student, method and schedule; losses live in the method."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from c2s.methods.base import Method
from c2s.methods.batch import Batch
from c2s.students.base import normalize_images, parameter_groups
from c2s.training.config import TrainConfig
from c2s.training.data import Replay, collate, taught
from c2s.training.jitter import photometric_jitter
from c2s.training.online import OnlineTeacher
from c2s.training.schedule import lr_factor


def student_input(batch: Batch, student: nn.Module) -> Tensor:
    """What the student sees of a batch: distorted, normalised, then padded with 0 (in this order).

    Returns:
        float32 [B, 3, S, S].
    """
    images = batch.image
    if batch.jitter is not None:
        images = photometric_jitter(images, batch.jitter)
    images = normalize_images(images, student)
    return images if batch.extent is None else images * _inside(batch.extent, images.shape[-1])


def _inside(extent: Tensor, size: int) -> Tensor:
    """bool [B, 1, S, S]: where views show the image, from their extents int64 [B, 4]."""
    place = torch.arange(size, device=extent.device)
    top, left, bottom, right = extent[:, :, None].unbind(1)  # [B, 1]
    rows, cols = (place >= top) & (place < bottom), (place >= left) & (place < right)
    return (rows[:, :, None] & cols[:, None, :])[:, None]


class DistillationModule(pl.LightningModule):
    """One training step: images through the student, features through the method.

    Args:
        student: the student.
        method: the objective, built for the seen classes.
        config: resolved configuration.
        start: iterations done before this fit began.
        teacher: CLIP in the loop; None if the batches come with what it says.
    """

    def __init__(
        self,
        student: nn.Module,
        method: Method,
        config: TrainConfig,
        start: int = 0,
        teacher: OnlineTeacher | None = None,
    ) -> None:
        super().__init__()
        self.teacher = teacher
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
        losses: dict[str, Tensor] = self.method(
            self.student(student_input(batch, self.student)), batch
        )
        return losses

    def transfer_batch_to_device(
        self, batch: Batch | list[Replay], device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Move a batch, from page-locked memory without waiting; an online teacher answers it first."""
        if isinstance(batch, list):
            assert self.teacher is not None
            answers = self.teacher.answer(batch)
            num_classes = self.method.num_classes
            batch = collate(
                [taught(v, a, num_classes) for v, a in zip(batch, answers, strict=True)]
            )
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
