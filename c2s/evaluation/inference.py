"""Inference: student features times text embeddings, or a classifier that has them folded in; no CLIP
image encoder, no latent classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from c2s.plain_torch import plain_torch
from c2s.students.base import IMAGENET_MEAN, IMAGENET_STD, normalize_images

Mode = Literal["slide", "whole"]
MULTIPLE = 32
"""Whole images are resized to multiples of the coarsest stride of the usual backbones."""
STRIDE = 426 / 512
"""Stride of the sliding window as a fraction of the window, of the ZegCLIP family."""
WINDOWS = 4
"""Windows of an image that go through the model together on a GPU; most photos have two to four. On a CPU
they go one by one: of SegFormer-B0 at 512 pixels, three together took 1.25 s of one core, one by one 1.07."""


class CosineClassifier(nn.Module):
    """A student that scores classes: the cosine of its feature at a position with each embedding.

    Args:
        student: features [B, D, h, w] of normalised images [B, 3, H, W].
        embeddings: float32 [K, D], unit norm.

    Attributes:
        mean, std: of the inputs, the student's.
    """

    embeddings: Tensor

    def __init__(self, student: nn.Module, embeddings: Tensor) -> None:
        super().__init__()
        self.student = student
        self.register_buffer("embeddings", embeddings)
        self.mean = getattr(student, "mean", IMAGENET_MEAN)
        self.std = getattr(student, "std", IMAGENET_STD)

    def forward(self, images: Tensor) -> Tensor:
        """Cosines float32 [B, K, h, w] of normalised images [B, 3, H, W]."""
        features = functional.normalize(self.student(images).float(), dim=1)
        return torch.einsum("bdhw,kd->bkhw", features, self.embeddings)


@dataclass(frozen=True)
class Predictor:
    """Segments images with a model that scores classes.

    Images are resized, keeping their proportions, to a short side of `short_side` (the family's test
    scale of (2048, 512) with short side never below 512). slide: windows of crop x crop at distance
    `stride`, the last one flush with the border; scores averaged where windows overlap. whole: one
    pass, sides rounded up to multiples of 32. Scores are the model's (cosines, or the logits of a
    folded student), brought to the original size bilinearly.

    Attributes:
        model: scores [B, K, h, w] of normalised images [B, 3, H, W], at its own resolution; in
            evaluation mode, on `device`.
        crop: side of the training views in pixels.
        mode: "slide" or "whole".
        penalty: float32 [K] on `device`, subtracted from the scores (infinite: never predicted), or None.
        device: where to compute.
        stride: of the sliding window in pixels; None: round(crop * 426 / 512).
        short_side: in pixels, at least `crop`; None: `crop`.
        windows: of one image, at most, that go through the model in one pass; None: 4 on a GPU, else 1.
    """

    model: nn.Module
    crop: int
    mode: Mode = "slide"
    penalty: Tensor | None = None
    device: torch.device | str = "cpu"
    stride: int | None = None
    short_side: int | None = None
    windows: int | None = None

    @torch.inference_mode()
    @plain_torch()
    def scores(self, image: NDArray[np.uint8]) -> Tensor:
        """Class scores of an image at its own size.

        Args:
            image: uint8 RGB [H, W, 3].

        Returns:
            float32 [K, H, W].
        """
        short = max(self.short_side or self.crop, self.crop)
        height, width = resized(image.shape[0], image.shape[1], short)
        if self.mode == "whole":
            height, width = (-(-v // MULTIPLE) * MULTIPLE for v in (height, width))
        pixels = np.asarray(
            Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        )
        tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].to(self.device)
        images = normalize_images(tensor, self.model)
        out = self._whole(images) if self.mode == "whole" else self._slide(images)
        out = _brought_to(out, image.shape[0], image.shape[1])[0]
        return out if self.penalty is None else out - self.penalty[:, None, None]

    def predict(self, image: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Best class of every pixel: int64 [H, W] of an image uint8 [H, W, 3]."""
        return self.scores(image).argmax(0).cpu().numpy()

    def _whole(self, images: Tensor) -> Tensor:
        """Scores [1, K, H, W] of an image [1, 3, H, W]."""
        return _brought_to(self.model(images).float(), images.shape[-2], images.shape[-1])

    def _slide(self, images: Tensor) -> Tensor:
        """The same, averaged over windows."""
        height, width = images.shape[-2:]
        places = [
            (..., slice(top, top + self.crop), slice(left, left + self.crop))
            for top in window_starts(height, self.crop, self.stride)
            for left in window_starts(width, self.crop, self.stride)
        ]
        visits = images.new_zeros(height, width)
        total: Tensor | None = None
        together = self.windows or (WINDOWS if images.is_cuda else 1)
        for first in range(0, len(places), together):
            group = places[first : first + together]
            # Brought to pixels one by one: that takes far more memory than the pass itself.
            for place, scores in zip(
                group, self.model(torch.cat([images[at] for at in group])), strict=True
            ):
                if total is None:
                    total = images.new_zeros(1, len(scores), height, width)
                total[place] += _brought_to(scores[None].float(), self.crop, self.crop)
                visits[place] += 1
        assert total is not None  # windows cover an axis, so there is at least one
        return total / visits


def _brought_to(scores: Tensor, height: int, width: int) -> Tensor:
    return functional.interpolate(scores, (height, width), mode="bilinear", align_corners=False)


def resized(height: int, width: int, short: int) -> tuple[int, int]:
    """Size with the short side brought to `short` and the proportions kept."""
    scale = short / min(height, width)
    return max(short, int(height * scale + 0.5)), max(short, int(width * scale + 0.5))


def window_starts(length: int, crop: int, stride: int | None = None) -> list[int]:
    """Starts of the windows along one axis; they cover it, and the last one ends at its end.

    Args:
        length: of the axis, at least `crop`.
        crop: side of the window.
        stride: None: round(crop * 426 / 512).
    """
    stride = stride or max(1, round(crop * STRIDE))
    count = -(-max(length - crop, 0) // stride) + 1
    return [min(i * stride, length - crop) for i in range(count)]
