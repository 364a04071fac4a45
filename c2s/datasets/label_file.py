"""Values of a label map as its file has them: index, palette or colour image."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from c2s.datasets.descriptor import LabelEncoding
from c2s_cache import DataError


def label_values(file: Path | BinaryIO, where: str, encoding: LabelEncoding) -> NDArray[np.integer]:
    """Values of a label map as the file has them, [H, W], at most 65535.

    Args:
        file: the encoded label map.
        where: what to call it in messages.
        encoding: of the label map.

    Raises:
        DataError: the file cannot be read, is no label map, or holds a colour that is no class's.
    """
    try:
        with Image.open(file) as image:
            drawn = bool(encoding.colours) and image.mode in ("RGB", "RGBA")
            values = np.asarray(image.convert("RGB") if drawn else image)
    except UnidentifiedImageError as error:
        raise DataError(f"label map {where} cannot be read (no known image format).") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"label map {where} cannot be read ({error}).") from error
    if drawn:
        return _from_colours(values, where, encoding)
    if values.ndim != 2 or values.dtype.kind not in "bui":
        raise DataError(
            f"{where} is no label map: expected one channel of integers, got {values.dtype} with shape "
            f"{values.shape}."
        )
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    if values.dtype.itemsize > 2 or values.dtype.kind == "i":
        if values.min() < 0 or values.max() > 65535:
            raise DataError(
                f"{where} is no label map: its values run from {values.min()} to {values.max()}."
            )
        return values.astype(np.uint16)
    return values


def _from_colours(
    pixels: NDArray[np.uint8], where: str, encoding: LabelEncoding
) -> NDArray[np.uint16]:
    """Values [H, W] of a label map drawn in colour, RGB [H, W, 3]."""
    wide = pixels.astype(np.uint32)
    packed = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    known = {r << 16 | g << 8 | b: value for (r, g, b), value in encoding.colours.items()}
    found, places = np.unique(packed, return_inverse=True)
    for colour in found.tolist():
        if colour not in known:
            rgb = (colour >> 16, colour >> 8 & 255, colour & 255)
            raise DataError(f"{where} holds the colour {rgb}, which is no class's.")
    table = np.array([known[c] for c in found.tolist()], np.uint16)
    values: NDArray[np.uint16] = table[places.reshape(packed.shape)]
    return values
