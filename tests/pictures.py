"""Synthetic photos and label maps."""

from __future__ import annotations

import numpy as np
from PIL import Image


def photo(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """A smooth random picture of that size."""
    coarse = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def label_map(rng: np.random.Generator, height: int, width: int, values: list[int]) -> Image.Image:
    """A blocky random map of those values."""
    coarse = rng.choice(np.array(values, np.uint8), (3, 4))
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST)
