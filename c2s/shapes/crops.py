"""Crops of scenes, and what of the world is mainly to be seen in them."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from c2s.shapes.scenes import CLASSES, SIZE

MAIN, SECOND = 0.6, 0.2
"""A class that covers as much of a crop is named alone; a second one is named from as much on."""


def cut(images: Tensor, boxes: Tensor) -> Tensor:
    """Boxes of images, brought to 64 x 64 by bicubic interpolation.

    Args:
        images: uint8 [n,64,64,3].
        boxes: float32 [n,4], x0, y0, x1, y1 in pixels, ends exclusive.

    Returns:
        uint8 [n,64,64,3].
    """
    steps = (torch.arange(SIZE) + 0.5) / SIZE
    x = boxes[:, None, 0] + (boxes[:, 2] - boxes[:, 0])[:, None] * steps
    y = boxes[:, None, 1] + (boxes[:, 3] - boxes[:, 1])[:, None] * steps
    n = len(images)
    grid = torch.stack(
        [x[:, None, :].expand(n, SIZE, SIZE), y[:, :, None].expand(n, SIZE, SIZE)], -1
    )
    pixels = rearrange(images, "n h w c -> n c h w").float()
    found = F.grid_sample(
        pixels, 2 * grid / SIZE - 1, "bicubic", padding_mode="border", align_corners=False
    )
    return rearrange(found.round().clamp(0, 255).to(torch.uint8), "n c h w -> n h w c")


def random_cells(rng: np.random.Generator, count: int) -> Tensor:
    """Squares of 1/4 to 1 of the frame's side (log-uniform), anywhere in it: float32 [n,4]."""
    side = SIZE * np.exp(-rng.uniform(0, np.log(4), count))
    x, y = (rng.uniform(0, SIZE - side) for _ in range(2))
    return torch.from_numpy(np.stack([x, y, x + side, y + side], 1)).float()


def boxes_around(masks: Tensor) -> Tensor:
    """Tight boxes of masks that are not empty, bool [n,64,64] -> float32 [n,4]."""
    sides = []
    for axis in (1, 2):  # any over y leaves x
        line = masks.any(axis).int()
        sides += [line.argmax(1), SIZE - line.flip(1).argmax(1)]
    x0, x1, y0, y1 = sides
    return torch.stack([x0, y0, x1, y1], 1).float()


def mainly(labels: np.ndarray) -> list[int]:
    """The class that covers most of a crop, and the next if neither is a trifle: ids, largest first."""
    counts = np.bincount(labels.ravel(), minlength=len(CLASSES)) / labels.size
    first, second = (int(i) for i in np.argsort(-counts)[:2])
    return [first] if counts[first] >= MAIN or counts[second] < SECOND else [first, second]


def inside(labels: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The part of a label map that lies in a box, at least one pixel."""
    x0, y0, x1, y1 = (round(float(v)) for v in box)
    return labels[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
