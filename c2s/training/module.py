"""Invariant: the module only joins student, method and schedule; losses live in the method.

What an iteration learns is a function of its weights, its images, the seed and the iteration's number:
torch's random state is set anew for every micro-batch, so that resuming has none to restore.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from c2s.methods.base import Method
from c2s.methods.batch import Batch
from c2s.runs.checkpoint import RunError, anew
from c2s.runs.config import TrainConfig
from c2s.runs.tensors import NotFinite, difference
from c2s.students.base import Student, normalize_images, parameter_groups
from c2s.training.jitter import photometric_jitter
from c2s.training.recorder import Recorder
from c2s.training.sampler import dropout_seed
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


NEVER = 2**62
"""An iteration beyond all others."""


class DistillationModule(pl.LightningModule):
    """One training step: the method drives the student through a batch.

    It brings its own callback that logs losses, rates and speed, so a plain `pl.Trainer` will do.

    Args:
        student: the student.
        method: the objective, built for the seen classes.
        config: resolved configuration.

    Attributes:
        averaged: moving average of the student's weights and buffers, or None; W' = d W' + (1 - d) W
            after every iteration, from the first one's weights on.
    """

    averaged: AveragedModel | None

    def __init__(
        self,
        student: Student,
        method: Method,
        config: TrainConfig,
    ) -> None:
        super().__init__()
        self.student = student
        self.method = method
        self.config = config
        self.averaged = None
        if config.channels_last:
            student.to(memory_format=torch.channels_last)
        if config.ema is not None:
            average = get_ema_multi_avg_fn(config.ema)  # type: ignore[no-untyped-call]
            self.averaged = AveragedModel(student, multi_avg_fn=average, use_buffers=True)
            self.averaged.requires_grad_(False)
        self._failed = torch.tensor(NEVER)
        # A function, not a module: names of weights stay as they are, and evaluation, whose images
        # are of other sizes, runs the student as it is.
        self._compiled = torch.compile(student.forward) if config.compile else None

    @property
    def step(self) -> int:
        """Iterations done since the beginning of the run; micro-batches are none."""
        return self.global_step

    @property
    def trained_student(self) -> Student:
        """What the run is about: the averaged student, or the student where nothing is averaged."""
        return self.student if self.averaged is None else cast(Student, self.averaged.module)

    def ends_iteration(self, batch_idx: int) -> bool:
        """Whether a micro-batch is the last of its iteration."""
        return (batch_idx + 1) % self.config.accumulate == 0

    def configure_callbacks(self) -> list[pl.Callback]:
        """The log of losses, rates and speed."""
        return [Recorder(self.config.log_every)]

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set torch's random state: a function of seed, iteration, micro-batch and process."""
        micro = batch_idx % self.config.accumulate
        part = micro * self.trainer.world_size + self.global_rank
        torch.manual_seed(dropout_seed(self.config.seed, self.step, part))

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Losses of one batch, "loss" among them."""
        images = student_input(batch, self.student)
        if self.config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        losses: dict[str, Tensor] = self.method(self._compiled or self.student, images, batch)
        self._watch(losses["loss"].detach())
        return losses

    def _watch(self, loss: Tensor) -> None:
        """Keep the first iteration whose loss is not finite, without waiting for the device."""
        failed = torch.where(loss.isfinite(), NEVER, self.step + 1)
        self._failed = torch.minimum(self._failed.to(loss.device), failed)

    @property
    def failed(self) -> bool:
        """Whether a loss was not finite in this process."""
        return bool(self._failed < NEVER)

    def require_finite_losses(self) -> None:
        """Look at what `training_step` has seen; called before anything is recorded, scored or saved.

        Raises:
            NotFinite: a loss was not finite, in any process; names the first such iteration.
        """
        failed = self.trainer.strategy.reduce(self._failed.to(self.device), reduce_op="min")
        if failed < NEVER:
            raise NotFinite(f"The loss is not finite at iteration {int(failed)}.")

    def require_finite_scores(self, batch: Batch) -> None:
        """See that the weights as they are now, which no loss has seen yet, tell one place of a batch from another:
        one more pass, without gradients, before weights are saved.

        Raises:
            NotFinite: what they give is not finite, in any process.
        """
        images = student_input(batch, self.student)
        finite = True
        for student in dict.fromkeys((self.student, self.trained_student)):
            training = student.training
            text = images.new_full((1, student.dim), student.dim**-0.5)
            with torch.no_grad(), self.trainer.precision_plugin.forward_context():
                finite &= bool(student.eval().classify(images, text).isfinite().all())
            student.train(training)
        if not self.trainer.strategy.reduce_boolean_decision(finite):
            raise NotFinite(f"After iteration {self.step} the student's scores are not finite.")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See that a checkpoint is one of this module; its rates are those that the configuration gives.

        Raises:
            RunError: it is of another student, method or optimizer.
        """
        try:
            self._adopt(checkpoint)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise RunError(
                f"The checkpoint is not one of this {self.config.student} and its settings ({error}).",
                anew(self.config.runs / self.config.run_name),
            ) from error

    def _adopt(self, checkpoint: dict[str, Any]) -> None:
        wrong = difference(self.state_dict(), checkpoint["state_dict"])
        if wrong is not None:
            raise ValueError(wrong)
        groups = self._groups()
        parameters = [parameter for group in groups for parameter in group["params"]]
        (optimizer,), (scheduler,) = checkpoint["optimizer_states"], checkpoint["lr_schedulers"]
        if [group["names"] for group in optimizer["param_groups"]] != [g["names"] for g in groups]:
            raise ValueError("other parameters of the optimizer")
        for i, moments in optimizer["state"].items():
            for name, value in moments.items():
                if value.ndim and value.shape != parameters[i].shape:
                    raise ValueError(f"{name} of parameter {i} is {list(value.shape)}")
        factor = lr_factor(scheduler["last_epoch"], self.config)
        for group, mine in zip(optimizer["param_groups"], groups, strict=True):
            group |= {"lr": mine["lr"] * factor, "initial_lr": mine["lr"]}
        scheduler["base_lrs"] = [group["lr"] for group in groups]

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: torch.optim.Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Lightning's own, then the moving average."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.averaged is not None:
            self.averaged.update_parameters(self.student)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Scale all gradients together down to a norm of `clip_norm`; the Trainer's own clipping has no part in it."""
        if self.config.clip_norm is not None:
            self.clip_gradients(optimizer, self.config.clip_norm, "norm")

    def _groups(self) -> list[dict[str, Any]]:
        c = self.config
        return parameter_groups(self, c.lr, c.weight_decay, c.head_lr_mult, c.lr_mult)

    def configure_optimizers(self) -> Any:
        """AdamW with the parameter groups and the schedule by absolute iterations."""
        optimizer = torch.optim.AdamW(self._groups(), betas=self.config.betas)

        def factor(step: int) -> float:
            return lr_factor(step, self.config)

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }
