"""Predictions drawn over their image, with a legend."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

LINE = 16
SMALL = 256
"""An image is drawn so often as large as fits into a square of this side, if it is at all smaller."""
BAND = 2**18
"""Pixels that are drawn together."""


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
        labels: class numbers [H, W]; one that is no class stays uncoloured.
        names: class names; number i is names[i].
        opacity: of the colours.

    Returns:
        The picture, with the legend below it; an image that is smaller than half of SMALL is enlarged by a whole
        number, pixel by pixel.
    """
    colours = palette(len(names))
    blend = _blend(colours, opacity)
    counts = np.zeros(len(names) + 1, np.int64)
    mixed = np.empty_like(image)
    for top in range(0, len(image), max(1, BAND // image.shape[1])):
        rows = slice(top, top + max(1, BAND // image.shape[1]))
        classes = np.minimum(labels[rows], len(names))
        counts += np.bincount(classes.ravel(), minlength=len(counts))
        for channel in range(3):
            mixed[rows, :, channel] = blend[classes, channel, image[rows, :, channel]]
    shown = np.flatnonzero(counts[:-1])
    times = max(1, SMALL // max(labels.shape))
    height, width = (side * times for side in labels.shape)
    out = Image.new("RGB", (max(width, 120), height + LINE * len(shown)), "white")
    out.paste(Image.fromarray(mixed).resize((width, height), Image.Resampling.NEAREST))
    draw = ImageDraw.Draw(out)
    for line, i in enumerate(shown.tolist()):
        top = height + line * LINE
        draw.rectangle((2, top + 2, LINE - 2, top + LINE - 3), tuple(int(v) for v in colours[i]))
        draw.text((LINE + 4, top + 2), names[i], "black")
    return out


def _blend(colours: NDArray[np.uint8], opacity: float) -> NDArray[np.uint8]:
    """What becomes of each value of a pixel under each class: uint8 [K + 1, 3, 256]; the last leaves it."""
    values = np.arange(256, dtype=np.float32)
    mixed = ((1 - opacity) * values + opacity * colours[..., None]).astype(np.float32)
    return np.concatenate([mixed, np.broadcast_to(values, (1, 3, 256))]).astype(np.uint8)
