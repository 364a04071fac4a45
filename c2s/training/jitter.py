"""Photometric distortion as mmsegmentation defines it, drawn per sample and applied to whole batches.

torchvision's (v2, 0.29) are other ones: contrast and saturation blend towards grey (contrast 1.5 makes (100, 200, 10)
into (100, 250, 0), here (150, 255, 15)), brightness multiplies, and a call has one factor for a whole batch.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BRIGHTNESS = 32.0
FACTOR = (0.5, 1.5)
HUE = 18
"""Hue shifts are whole multiples of 2 degrees in [-HUE, HUE)."""
NEUTRAL = (0.0, 1.0, 1.0, 0.0, 1.0)
"""Draws that change nothing."""


def draw_jitter(rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw the distortions of one image; each of the four happens with probability one half.

    Args:
        rng: the sample's own random stream. The same numbers are drawn whatever happens.

    Returns:
        float32 [5]: brightness shift, contrast factor applied before the colours, saturation factor,
        hue shift in turns, contrast factor applied after the colours (one of the two is 1).
    """
    happens = rng.random(4) < 0.5
    contrast_first = rng.random() < 0.5
    brightness = rng.uniform(-BRIGHTNESS, BRIGHTNESS)
    contrast, saturation = rng.uniform(*FACTOR, size=2)
    hue = rng.integers(-HUE, HUE) / 180
    draws = np.where(
        happens[[0, 1, 2, 3, 1]], (brightness, contrast, saturation, hue, contrast), NEUTRAL
    )
    draws[4 if contrast_first else 1] = 1.0
    return draws.astype(np.float32)


def photometric_jitter(images: Tensor, draws: Tensor) -> Tensor:
    """Distort the colours of a batch.

    As in mmsegmentation, every change of brightness and contrast is cut to [0, 255] and to whole
    numbers; hue and saturation change in HSV, here without its rounding to 8 bits in between.

    Args:
        images: uint8 RGB [B, 3, H, W].
        draws: float32 [B, 5], as `draw_jitter` gives them.

    Returns:
        float32 [B, 3, H, W], whole numbers in 0..255.
    """
    shift, before, saturation, hue, after = draws[:, :, None, None, None].unbind(1)  # [B, 1, 1, 1]
    out = _eight_bit(images.float() + shift)
    out = _eight_bit(out * before)
    out = _hsv(out, saturation, hue)
    return _eight_bit(out * after)


def _eight_bit(images: Tensor) -> Tensor:
    return images.clamp_(0, 255).floor_()


def _hsv(images: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """Scale the saturation and turn the hue; the value (largest channel) stays.

    Args:
        images: float [B, 3, H, W].
        saturation, hue: float [B, 1, 1, 1].
    """
    red, green, blue = images[:, :, None].unbind(1)  # [B, 1, H, W]
    value = images.amax(1, keepdim=True)
    chroma = value - images.amin(1, keepdim=True)
    divisor = chroma.clamp(min=1)  # a grey pixel has no hue
    sextant = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    sextant = sextant + 6 * hue
    chroma = torch.minimum(chroma * saturation, value)
    channels = []
    for offset in (5, 3, 1):
        place = (sextant + offset) % 6
        channels.append(value - chroma * torch.minimum(place, 4 - place).clamp_(0, 1))
    return torch.cat(channels, 1).round_()
