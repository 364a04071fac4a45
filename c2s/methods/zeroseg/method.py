"""The objective of ZeroSeg: reconstruction, multi-scale distillation and matching, and what keeps segments apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from c2s.methods.base import Facts, Method
from c2s.methods.batch import Batch
from c2s.methods.clip_to_seg.local_distillation import cell_counts
from c2s.methods.zeroseg.examples import ZeroSegBatch
from c2s.methods.zeroseg.losses import (
    Measure,
    cell_places,
    collapse,
    match,
    mean_over,
    reverse,
    within,
)
from c2s.methods.zeroseg.reconstruction import Reconstruction
from c2s.methods.zeroseg.settings import ZeroSegSettings
from c2s.students.base import to_multiple
from c2s.students.grouping import Grouped, GroupingStudent

HEADS = 8
"""Attention heads of the layer over the segments, where they divide the width."""
ALONE, ALIKE = 1.5, 0.97
"""Segments that win a patch, and cosine between segments, below and above which they are taken for one."""


class Targets(NamedTuple):
    """What the teacher says: `whole` float [B, 1, D]; `parts` float [B, J, D]; `valid` bool [B, J]."""

    whole: Tensor
    parts: Tensor
    valid: Tensor


class ZeroSeg(Method):
    """ZeroSeg.

    Args:
        config: the switches.
        facts: the student; nothing else is used, no class and no word.

    Raises:
        ValueError: the decoder's heads do not divide its width; or a self-training, for which words are needed.
    """

    mean: Tensor
    seen: Tensor

    def __init__(self, config: ZeroSegSettings, facts: Facts) -> None:
        super().__init__()
        student = facts.student
        assert isinstance(student, GroupingStudent)
        if facts.unseen is not None:
            raise ValueError("self_train needs labels and words; zeroseg learns from neither.")
        self.config, self.patch = config, student.patch
        self.measure = Measure(config.distance, config.reduction == "sum", config.normalize)
        dim = student.dim
        if config.reconstruction:
            sizes = config.decoder
            self.decoder = Reconstruction(student, sizes.layers, sizes.width, sizes.heads)
        if config.image:
            heads = math.gcd(dim, HEADS)
            self.layer = nn.TransformerEncoderLayer(
                dim, heads, 4 * dim, 0.0, "gelu", batch_first=True, norm_first=True
            )
            self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        if config.patches:
            self.project = nn.Linear(student.width, dim)
        if config.center:
            self.register_buffer("mean", torch.zeros(dim))
            self.register_buffer("seen", torch.zeros(()))

    def forward(
        self, student: Callable[..., Grouped], images: Tensor, batch: Batch
    ) -> dict[str, Tensor]:
        """Losses of a pass over the visible patches; see `losses`."""
        assert isinstance(batch, ZeroSegBatch)
        images = to_multiple(images, self.patch)
        return self.losses(student(images, self.config.mask_ratio), images, batch)

    def losses(self, grouped: Grouped, images: Tensor, batch: ZeroSegBatch) -> dict[str, Tensor]:
        """Losses that are on, their sum "loss", and what `collapse` watches.

        Args:
            grouped: what the student made of the images.
            images: float [B, 3, S, S].
            batch: the batch.
        """
        config = self.config
        with torch.autocast(images.device.type, enabled=False):
            grouped = Grouped(*(t.float() if t.is_floating_point() else t for t in grouped))
            targets = self._targets(batch)
            far = self.measure.pairs(grouped.segments, targets.parts)
            found: dict[str, tuple[float, Tensor]] = {}
            if config.reconstruction:
                found["rec"] = config.reconstruction, self.decoder(grouped, images)
            if config.image:
                found["image"] = config.image, self.image_loss(grouped.segments, targets)
            if config.match and far.shape[2]:
                found["match"] = config.match, match(far, targets.valid)
            if config.reverse and far.shape[2]:
                found["reverse"] = config.reverse, reverse(far, targets.valid)
            if config.locate or config.patches:
                places = self._visible(batch, grouped, images)
                covered = targets.valid & (places.sum(-1) > 0)
                if config.locate:
                    shares = within(places, grouped.maps.mT)  # [B, J, m]
                    terms = self.measure.own(shares @ grouped.segments, targets.parts)
                    found["locate"] = config.locate, mean_over(terms, covered)
                if config.patches:
                    local = within(places, self.project(grouped.patches[:, 1:]))
                    terms = self.measure.own(local, targets.parts)
                    found["patches"] = config.patches, mean_over(terms, covered)
            total = images.new_zeros(()) + sum(weight * loss for weight, loss in found.values())
            losses = {name: loss for name, (_, loss) in found.items()}
            with torch.no_grad():
                apart = far.masked_fill(~targets.valid[:, None], torch.inf)
                watched = collapse(grouped.maps, grouped.segments, apart)
        return {"loss": total, **losses, **watched}

    def image_loss(self, segments: Tensor, targets: Targets) -> Tensor:
        """z of the segments against the whole image's token and, multi-scale, those of all parts."""
        z = self.mlp(self.layer(segments).mean(1))[:, None]
        every, valid = targets.whole, targets.valid.new_ones(len(z), 1)
        if self.config.multiscale:
            every = torch.cat([every, targets.parts], 1)
            valid = torch.cat([valid, targets.valid], 1)
        return mean_over(self.measure.own(z.expand_as(every), every), valid)

    def concern(self, record: Mapping[str, float]) -> str | None:
        """That the segments have become one."""
        used, cosine = record.get("used", math.inf), record.get("cosine", 0.0)
        if used >= ALONE and cosine <= ALIKE:
            return None
        return (
            f"the segments collapse: {used:.1f} of an image win a patch, and their tokens have a cosine of "
            f"{cosine:.2f} to each other. The printed losses do so where training is short; the settings that do not "
            "are --recipe best."
        )

    def _targets(self, batch: ZeroSegBatch) -> Targets:
        whole, parts = batch.global_cls[:, None], batch.targets
        valid = parts.new_ones(parts.shape[:2], dtype=torch.bool)
        if batch.ids is not None:
            valid = batch.ids >= 0
        if self.config.center:
            if self.training:
                self._follow(whole, parts, valid)
            whole, parts = whole - self.mean, parts - self.mean
        return Targets(whole, parts, valid)

    @torch.no_grad()
    def _follow(self, whole: Tensor, parts: Tensor, valid: Tensor) -> None:
        """Take a batch into the mean of all tokens so far, those of other processes included."""
        total = whole.sum((0, 1)) + (parts * valid[..., None]).sum((0, 1))
        count = valid.sum() + len(whole)
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(total)
            dist.all_reduce(count)
        self.seen += 1
        self.mean += (total / count - self.mean) / self.seen

    def _visible(self, batch: ZeroSegBatch, grouped: Grouped, images: Tensor) -> Tensor:
        """Share of each patch that was seen which each part covers: float [B, J, L']."""
        height, width = (side // self.patch for side in images.shape[-2:])
        if batch.ids is None or batch.regions is None:
            places = cell_places(batch.scales, height, width).to(images.device)
            return places[:, grouped.kept].transpose(0, 1)
        places = cell_counts(batch.regions, batch.ids, height, width).float()
        index = grouped.kept[:, None].expand(-1, places.shape[1], -1)
        return places.gather(2, index)
