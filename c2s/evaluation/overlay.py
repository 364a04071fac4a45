"""Predictions drawn over their image, with a legend."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

LINE = 16


def palette(count: int) -> NDArray[np.uint8]:
    """Distinct colours, uint8 [count, 3]: hues at the golden angle, well spread."""
    colours = [
        colorsys.hsv_to_rgb(i * 0.618034 % 1, 0.55 + 0.4 * (i % 2), 0.95) for i in range(count)
    ]
    return (np.array(colours).reshape(count, 3) * 255).astype(np.uint8)


def overlay(
    image: NDArray[np.uint8],
    labels: NDArray[np.integer],
    names: Sequence[str],
    opacity: float = 0.55,
) -> Image.Image:
    """Blend class colours over an image and name the classes that occur below it.

    Args:
        image: uint8 RGB [H, W, 3].
        labels: class numbers [H, W]; 255 stays uncoloured.
        names: class names; number i is names[i].
        opacity: of the colours.
    """
    colours = palette(len(names))
    shown = np.flatnonzero(
        np.bincount(labels.ravel().astype(np.int64), minlength=256)[: len(names)]
    )
    mixed = image.astype(np.float32)
    inside = labels < len(names)
    mixed[inside] = (1 - opacity) * mixed[inside] + opacity * colours[labels[inside]]
    height, width = labels.shape
    out = Image.new("RGB", (max(width, 120), height + LINE * len(shown)), "white")
    out.paste(Image.fromarray(mixed.astype(np.uint8)))
    draw = ImageDraw.Draw(out)
    for line, i in enumerate(shown.tolist()):
        top = height + line * LINE
        draw.rectangle((2, top + 2, LINE - 2, top + LINE - 3), tuple(int(v) for v in colours[i]))
        draw.text((LINE + 4, top + 2), names[i], "black")
    return out
