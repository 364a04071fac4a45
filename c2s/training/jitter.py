"""Photometric jitter as the field trains with it: brightness, contrast, saturation, hue."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BRIGHTNESS = 32.0
FACTOR = (0.5, 1.5)
HUE = 18 / 180 * 256
"""Largest hue shift, in PIL's hue steps of 360 / 256 degrees."""


def photometric_jitter(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Distort colours; each of the four changes happens with probability one half.

    Brightness +-32; contrast x 0.5..1.5, before or after the two others; saturation x 0.5..1.5; hue
    +-36 degrees. The same draws are made whatever happens, so streams stay aligned.

    Args:
        image: uint8 RGB [H, W, 3].
        rng: the sample's own random stream.

    Returns:
        uint8 [H, W, 3].
    """
    do_brightness, do_contrast, contrast_first, do_saturation, do_hue = rng.random(5) < 0.5
    contrast, saturation = rng.uniform(*FACTOR, size=2)
    brightness, hue = rng.uniform(-1, 1, size=2) * (BRIGHTNESS, HUE)
    gain = contrast if do_contrast else 1.0
    shift = brightness if do_brightness else 0.0
    image = _scaled(
        image, gain if contrast_first else 1.0, shift * (gain if contrast_first else 1.0)
    )
    if do_saturation or do_hue:
        image = _hsv(image, saturation if do_saturation else 1.0, hue if do_hue else 0.0)
    return image if contrast_first else _scaled(image, gain, 0.0)


def _scaled(image: NDArray[np.uint8], gain: float, shift: float) -> NDArray[np.uint8]:
    if gain == 1.0 and shift == 0.0:
        return image
    table = np.clip(np.rint(np.arange(256) * gain + shift), 0, 255).astype(np.uint8)
    out: NDArray[np.uint8] = table[image]
    return out


def _hsv(image: NDArray[np.uint8], saturation: float, hue: float) -> NDArray[np.uint8]:
    hsv = np.array(Image.fromarray(image).convert("HSV"))
    turned = (np.arange(256) + round(hue)) % 256
    hsv[..., 0] = turned.astype(np.uint8)[hsv[..., 0]]
    hsv[..., 1] = _scaled(hsv[..., 1], saturation, 0.0)
    return np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))
