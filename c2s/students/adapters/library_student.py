"""A model of another library, and how it wants its images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from c2s.students.base import IMAGENET_MEAN, IMAGENET_STD, to_multiple

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class InputSpec:
    """Sizes and normalisation of a model's images.

    Attributes:
        multiple: the model takes sides that are multiples of it.
        side: the model takes squares of that side alone; None: any multiple.
        mean, std: normalisation, RGB, in units of pixel / 255.
        bgr: the model takes blue first.
    """

    multiple: int = 32
    side: int | None = None
    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD
    bgr: bool = False

    def prepare(self, images: Tensor) -> Tensor:
        """Normalised RGB images [B, 3, H, W] as the model takes them [B, 3, h, w]."""
        if self.side is None:
            images = to_multiple(images, self.multiple)
        elif images.shape[-2:] != (self.side, self.side):
            size = (self.side, self.side)
            images = F.interpolate(images, size, mode="bilinear", align_corners=False)
        return images.flip(1) if self.bgr else images

    def to_json(self) -> dict[str, Any]:
        """JSON values that `from_json` reads back to an equal one."""
        return {**asdict(self), "mean": [*self.mean], "std": [*self.std]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> InputSpec:
        """The inverse of `to_json`."""
        triples = {key: tuple(values[key]) for key in ("mean", "std")}
        return cls(**{**values, **triples})


def channels(values: Any, scale: float = 1.0) -> Channels:
    """Three numbers of a library as a tuple, each times `scale`."""
    red, green, blue = (float(v) * scale for v in values)
    return red, green, blue


@dataclass(frozen=True)
class LibraryStudent:
    """A model of another library, not adapted yet.

    Attributes:
        module: with D outputs, or any number of classes.
        backbone: part of it that is pretrained; None: all but the classifier.
        input: how it wants its images.
        config: JSON values to make it from again, if its name does not say them.
    """

    module: nn.Module
    backbone: nn.Module | None = None
    input: InputSpec = InputSpec()
    config: dict[str, Any] | None = None
