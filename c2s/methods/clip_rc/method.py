"""The objective of CLIP-RC (Eq. 11): focal and dice on masks, and recovery."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from c2s.methods.base import Facts, Method
from c2s.methods.batch import Batch
from c2s.methods.clip_rc.examples import LabelBatch
from c2s.methods.clip_rc.recovery import RecoveryDecoder, recovery_loss
from c2s.methods.clip_rc.settings import ClipRCSettings
from c2s.methods.fused_pixel_loss import pixel_losses
from c2s.methods.pixel_loss import present_masks
from c2s.students.base import Student
from c2s.students.prompted_clip import Prompted, PromptedCLIP
from c2s_cache.manifest import IGNORE


class ClipRC(Method):
    """CLIP-RC, and with the unseen classes its self-training.

    Args:
        config: the switches.
        facts: the seen classes; the unseen ones make it transductive: a pixel whose annotation was removed is then
            labelled with the unseen class that the running model prefers, without gradient.
    """

    text: Tensor
    channel: Tensor

    def __init__(self, config: ClipRCSettings, facts: Facts) -> None:
        super().__init__()
        self.config = config
        self.seen = len(facts.seen.ids)
        words = facts.seen if facts.unseen is None else facts.seen + facts.unseen
        channel = torch.full((IGNORE + 1,), -1, dtype=torch.int64)
        channel[list(words.ids)] = torch.arange(len(words.ids))
        # Both follow from the run's text, so they are not part of the checkpoint.
        self.register_buffer("text", torch.from_numpy(words.embeddings).float(), persistent=False)
        self.register_buffer("channel", channel, persistent=False)
        dim = words.embeddings.shape[1]
        if dim % config.heads:
            raise ValueError(f"method.heads={config.heads} does not divide the width {dim}.")
        if config.recovery.weight:
            sizes = (config.heads, config.ffn, config.recovery.layers)
            self.recovery = RecoveryDecoder(dim, *sizes, config.dropout)

    def forward(
        self, student: Callable[..., Prompted], images: Tensor, batch: Batch
    ) -> dict[str, Tensor]:
        """Losses "focal", "dice", their weighted sum "pixel", "recovery" where it is on, and "loss"."""
        assert isinstance(batch, LabelBatch)
        found, weights = student(images, self.text), self.config.weights
        target = self.target(found.logits, batch)
        logits = found.logits.float()
        masks = present_masks(target, len(self.text)).sum().to(logits.dtype)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(masks)
            masks /= dist.get_world_size()
        absent = torch.zeros(logits.shape[:2], dtype=torch.bool, device=logits.device)
        negative = self.config.unlabelled == "negative"
        losses = pixel_losses(logits, target, absent, weights, negative, masks)
        del losses["ce"]
        total = losses["pixel"]
        if self.config.recovery.weight:
            losses["recovery"] = self.recovered(found)
            total = total + self.config.recovery.weight * losses["recovery"]
        return {"loss": total, **losses}

    def beginnings(
        self, student: Student, images: Tensor, batch: Batch
    ) -> dict[str, Callable[[], Iterable[Tensor]]]:
        """The tower, and the decoder behind it."""
        assert isinstance(student, PromptedCLIP)
        return {
            "tower": lambda: student.encode(images),
            "decoder": lambda: (student(images, self.text).logits,),
        }

    def recovered(self, found: Prompted) -> Tensor:
        """Eq. 10: the loss of descriptors and that of patches."""
        descriptors, patches = self.recovery(found.queries, found.patches)
        kind = self.config.recovery.loss
        of_descriptors = recovery_loss(descriptors, found.descriptors, kind)
        return of_descriptors + recovery_loss(patches, found.encoded, kind)

    @torch.no_grad()
    def target(self, logits: Tensor, batch: LabelBatch) -> Int[Tensor, "B H W"]:
        """Channel of every pixel, -1 where none: int64 [B, H, W].

        Args:
            logits: [B, C, h, w], of the running model.
            batch: the batch; in a self-training with `unseen`.

        Raises:
            ValueError: a self-training's batch does not say which pixels are of unseen classes.
        """
        target: Tensor = self.channel[batch.labels]
        if self.seen == len(self.text):
            return target
        if batch.unseen is None:
            raise ValueError("self-training needs to know which pixels are of unseen classes")
        scores = logits[:, self.seen :].float()
        fine = F.interpolate(scores, target.shape[1:], mode="bilinear", align_corners=False)
        return torch.where(batch.unseen, self.seen + fine.argmax(1), target)
