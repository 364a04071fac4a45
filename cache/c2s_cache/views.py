"""Invariant: builder and trainer cut views with these functions and no others, so pixels agree exactly.

Pillow and numpy: torchvision's v2.functional.resized_crop takes boxes of whole pixels, and boxes here are fractions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from c2s_cache.manifest import IGNORE, Interpolation, ResizeMode

_T = TypeVar("_T", bound=np.generic)
Box = tuple[float, float, float, float]
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

LONGEST = 16
"""Sides that are longer than so many views are cut before they are resized, not after: of a strip of 2 x 4000 pixels
the whole would take gigabytes, and CLIP's own rounding is not worth them."""


@dataclass(frozen=True)
class Crop:
    """A view of an image at one size S.

    `image` uint8 [S, S, 3]; `labels` uint8 [S, S], 255 = not annotated; `inside` bool [S, S], False
    on padding.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    inside: NDArray[np.bool_]


def crop(
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    box: Box | NDArray[np.float64],
    flip: bool,
    size: int,
) -> Crop:
    """Cut a view out of an upright image [H, W, 3] and its label map [H, W], at `size` pixels."""
    places = _places(labels.shape[0], labels.shape[1], box, size)
    return Crop(
        crop_image(image, box, flip, size),
        _mirrored(_sampled(labels, *places), flip),
        _mirrored(places[2], flip),
    )


def canonical_box(height: int, width: int, size: int, resize_mode: ResizeMode = "shortest") -> Box:
    """Box of the canonical view: the teacher's own preprocessing. "shortest" is CLIP's, short side to `size`, centre
    crop; "squash" is SigLIP's, the whole image whatever its aspect.

    The box of "shortest" is placed on whole pixels of the image resized to short side `size`, exactly as
    `Resize(size)` and `CenterCrop(size)` of torchvision do, then expressed in source pixels.

    Returns:
        (x0, y0, x1, y1) in source pixels, always inside the image.
    """
    if resize_mode == "squash":
        return 0.0, 0.0, float(width), float(height)
    short = min(height, width)
    resized_h = size if height == short else int(size * height / short)
    resized_w = size if width == short else int(size * width / short)
    top, left = round((resized_h - size) / 2.0), round((resized_w - size) / 2.0)
    step_y, step_x = height / resized_h, width / resized_w
    return (
        left * step_x,
        top * step_y,
        min((left + size) * step_x, width),
        min((top + size) * step_y, height),
    )


def crop_image(
    image: NDArray[np.uint8],
    box: Box | NDArray[np.float64],
    flip: bool,
    size: int,
    interpolation: Interpolation = "bicubic",
) -> NDArray[np.uint8]:
    """Resample the box of an image to a square, with anti-aliasing; outside the image is 0.

    Args:
        image: uint8 [H, W, 3].
        box: (x0, y0, x1, y1) in source pixels; may exceed the image.
        flip: mirror left-right after cropping.
        size: output side in pixels.
        interpolation: the teacher's, of pixels that it sees; students see bicubic ones.

    Returns:
        uint8 [size, size, 3].
    """
    height, width = image.shape[:2]
    resample = _FILTERS[interpolation]
    x0, y0, x1, y1 = (float(v) for v in box)
    if (x0, y0, x1, y1) == (0, 0, size, size) and height == width == size:
        out = image
    elif x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height:
        across, down = _raster(x0, x1, width, size), _raster(y0, y1, height, size)
        whole = Image.fromarray(image)
        sides = (across[0], down[0]) if across is not None and down is not None else ()
        if across and down and size in sides and max(sides) <= LONGEST * size:
            # Pillow keeps boxes in float32: where the box spans the short side and lies on whole pixels of
            # the resized image, resizing first and cropping then gives exactly CLIP's own preprocessing.
            resized = whole.resize((across[0], down[0]), resample)
            out = np.asarray(resized)[down[1] : down[1] + size, across[1] : across[1] + size]
        else:
            out = np.asarray(whole.resize((size, size), resample, (x0, y0, x1, y1)))
    else:
        out = np.zeros((size, size, 3), np.uint8)
        left, right = _inside(x0, x1, width, size)
        top, bottom = _inside(y0, y1, height, size)
        if right > left and bottom > top:
            part = (max(x0, 0.0), max(y0, 0.0), min(x1, width), min(y1, height))
            shape = (right - left, bottom - top)
            inner = Image.fromarray(image).resize(shape, resample, part)
            out[top:bottom, left:right] = np.asarray(inner)
    return np.ascontiguousarray(_mirrored(out, flip))


def crop_labels(
    labels: NDArray[np.uint8], box: Box | NDArray[np.float64], flip: bool, size: int
) -> NDArray[np.uint8]:
    """Sample the box of a label map at pixel centres (nearest); outside the image is 255.

    Args:
        labels: uint8 [H, W], class ids, 255 = not annotated.
        box: (x0, y0, x1, y1) in source pixels; may exceed the image.
        flip: mirror left-right after cropping.
        size: output side in pixels.

    Returns:
        uint8 [size, size].
    """
    places = _places(labels.shape[0], labels.shape[1], box, size)
    return _mirrored(_sampled(labels, *places), flip)


def source_cells(
    size: tuple[int, int],
    shape: tuple[int, ...],
    box: Box | NDArray[np.float64],
    flip: bool,
    cells: int,
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row and column, in a map of `shape` that covers a whole image of `size`, at the centre of each of `cells` x
    `cells` cells of a view: intp [cells] each. Cells outside the image get those at its edge."""
    rows, _ = _samples(*_scaled(box[1], box[3], size[0], shape[0]), shape[0], cells)
    cols, _ = _samples(*_scaled(box[0], box[2], size[1], shape[1]), shape[1], cells)
    return rows, cols[::-1] if flip else cols


def _scaled(start: float, stop: float, length: int, cells: int) -> tuple[float, float]:
    return float(start) * cells / length, float(stop) * cells / length


def inside_image(
    height: int, width: int, box: Box | NDArray[np.float64], flip: bool, size: int
) -> NDArray[np.bool_]:
    """Where a view of `size` pixels shows the image rather than padding: bool [size, size]."""
    return _mirrored(_places(height, width, box, size)[2], flip)


def _places(
    height: int, width: int, box: Box | NDArray[np.float64], size: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
    """Source row and column of each output pixel, [size, 1] and [1, size], and which lie inside."""
    rows, rows_in = _samples(float(box[1]), float(box[3]), height, size)
    cols, cols_in = _samples(float(box[0]), float(box[2]), width, size)
    return rows[:, None], cols[None, :], rows_in[:, None] & cols_in[None, :]


def _sampled(
    labels: NDArray[np.uint8],
    rows: NDArray[np.intp],
    cols: NDArray[np.intp],
    inside: NDArray[np.bool_],
) -> NDArray[np.uint8]:
    out: NDArray[np.uint8] = labels.take(rows[:, 0], 0).take(cols[0], 1)  # faster than both at once
    if not inside.all():
        out[~inside] = IGNORE
    return out


def _mirrored(array: NDArray[_T], flip: bool) -> NDArray[_T]:
    return np.ascontiguousarray(array[:, ::-1]) if flip else array


def _raster(start: float, stop: float, limit: int, size: int) -> tuple[int, int] | None:
    """Length of the resized axis and offset of the crop on it, if both are whole numbers."""
    step = (stop - start) / size
    length, offset = limit / step, start / step
    whole = abs(length - round(length)) < 1e-6 and abs(offset - round(offset)) < 1e-6
    return (round(length), round(offset)) if whole else None


def _inside(start: float, stop: float, limit: int, size: int) -> tuple[int, int]:
    """Output pixels whose centres fall into [0, limit) when [start, stop) is sampled at `size` points."""
    _, valid = _samples(start, stop, limit, size)
    index = np.flatnonzero(valid)
    return (int(index[0]), int(index[-1]) + 1) if len(index) else (0, 0)


@lru_cache(maxsize=64)  # the canonical views of images of one size are all alike
def _samples(
    start: float, stop: float, limit: int, size: int
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    position = np.floor(start + (np.arange(size) + 0.5) * ((stop - start) / size)).astype(np.intp)
    inside = (position >= 0) & (position < limit)
    position = np.clip(position, 0, limit - 1)
    for array in (position, inside):
        array.setflags(write=False)
    return position, inside
