"""Invariant: a batch is what one step needs from the cache; nothing of unseen classes unless transductive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Views of B images with their pseudo masks and CLIP tokens.

    Attributes:
        image: uint8 [B, 3, S, S], RGB.
        pseudo: int64 [B, S, S], the pseudo mask: a seen class id (0..N-1), N + u for latent class u
            of that image, -1 where there is neither.
        global_cls: float32 [B, D], CLS token of the view, as CLIP gives it (not normalised).
        region_cls: float32 [B, R, D], CLS tokens of the masked regions, zero in padded slots.
        region_ids: int64 [B, R], id of each region in the pseudo mask's encoding, -1 in padded
        slots.
        region_area: float32 [B, R], area as a fraction of the view, zero in padded slots.
        rows: int64 [B], row of each image in the cache.
        extent: int64 [B, 4], top, left, bottom, right of the part of the view that shows the image;
            the rest is padding. None: no padding.
        jitter: float32 [B, 5], photometric distortion of each image, or None.
        max_id: no id in `pseudo` or `region_ids` is larger. The loader knows it; where it is None, the
            method has to look, and on a GPU to wait for what it sees.
        unseen: bool [B, S, S], pixels of unseen classes, whichever: their annotation was removed. Only in
            a self-training; None otherwise, so that they cannot be told from pixels of no class.
    """

    image: Tensor
    pseudo: Tensor
    global_cls: Tensor
    region_cls: Tensor
    region_ids: Tensor
    region_area: Tensor
    rows: Tensor
    extent: Tensor | None = None
    jitter: Tensor | None = None
    max_id: int | None = None

    def largest_id(self) -> int:
        """`max_id`, looked up if it was not given."""
        if self.max_id is not None:
            return self.max_id
        return max(int(self.pseudo.max()), int(self.region_ids.max()))

    unseen: Tensor | None = None

    def __len__(self) -> int:
        return self.image.shape[0]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory (the loader calls this)."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {k: change(v) for k, v in values.items() if isinstance(v, Tensor)}
        return Batch(**(values | tensors))
