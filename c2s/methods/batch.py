"""Invariant: a batch is what one step needs from the cache, and its tensors travel together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Views of B images; every method adds what it needs of the teacher in a subclass.

    Attributes:
        image: uint8 [B, 3, S, S], RGB.
        extent: int64 [B, 4], top, left, bottom, right of the part of the view that shows the image;
            the rest is padding. None: no padding.
        jitter: float32 [B, 5], photometric distortion of each image, or None.
    """

    image: Tensor
    extent: Tensor | None = None
    jitter: Tensor | None = None

    def __len__(self) -> int:
        return self.image.shape[0]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same batch on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory (the loader calls this)."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{k: change(v) for k, v in values.items() if isinstance(v, Tensor)})
