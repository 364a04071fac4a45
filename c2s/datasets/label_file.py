"""Invariant: a label map is read by what it shows, and refused where its format changes what was drawn."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from c2s.datasets.descriptor import LabelEncoding
from c2s_cache import DataError
from c2s_cache.picture import Picture, opened, rgb

ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")
FEW = 8
"""Colours of no class that one label map may have and each be named; more are blended edges."""
RESIZED = "Save them again as PNG from what they were drawn with, without smoothing or scaling."
DRAWN = (
    "If they are drawn in colour, write `colours:`, [red, green, blue] by class name (c2s data init finds them); "
    "a panoptic PNG is converted: c2s data convert --help."
)


class LabelError(DataError):
    """A label map that cannot be used. `kind` says why, without the file; `hint` is the cure."""

    def __init__(self, where: str, kind: str, hint: str | None = None, detail: str = "") -> None:
        super().__init__(f"{where} {kind}{detail}.", hint)
        self.kind = kind
        self._given = where, kind, hint, detail

    def __reduce__(self) -> tuple[type[LabelError], tuple[str, str, str | None, str]]:
        return type(self), self._given  # workers send it to the builder


@dataclass(frozen=True)
class LabelFile:
    """A label map as its file has it.

    Attributes:
        values: [H, W], upright, at most 65535; -1 - i where the colour is `strange[i]`.
        strange: (red, green, blue) of colours that are no class's.
        orientation: what its EXIF says, 1 to 8.
        alpha: whether it has an alpha channel, which is not looked at.
        more: whether its file has further frames or pages.
    """

    values: NDArray[np.integer]
    strange: tuple[tuple[int, int, int], ...] = field(default=())
    orientation: int = 1
    alpha: bool = False
    more: bool = False


def read_label_file(data: bytes, where: str, encoding: LabelEncoding) -> LabelFile:
    """Read an encoded label map.

    Args:
        data: the file.
        where: what to call it in messages.
        encoding: of the label map.

    Raises:
        LabelError: it cannot be read, its format is lossy, or it is no label map.
    """

    def refusal(reason: str) -> DataError:
        return LabelError(where, "cannot be read as a label map", None, f" ({reason})")

    with opened(data, refusal) as picture:
        if picture.lossy:
            kind = f"is a {picture.lossy}, which changes the values of a label map"
            raise LabelError(where, kind, RESIZED)
        values, strange = (
            _from_colours(rgb(picture.image), encoding)
            if encoding.colours and not (encoding.grey_is_index and _one_channel(picture))
            else (_numbers(picture, where), ())
        )
        alpha = picture.image.mode in ALPHA
        return LabelFile(values, strange, picture.orientation, alpha, picture.more)


def _one_channel(picture: Picture) -> bool:
    return picture.image.mode not in ("RGB", *ALPHA)


def _numbers(picture: Picture, where: str) -> NDArray[np.integer]:
    """Values [H, W] of a label map that holds class numbers; grey that is stored as colour is grey."""
    image = picture.image
    if image.mode in ("LA", "La", "PA"):
        image = image.getchannel(0)
    values = np.asarray(image)
    if values.ndim == 3 and values.dtype == np.uint8 and image.mode in ("RGB", "RGBA", "RGBX"):
        red, green, blue = (values[..., i] for i in range(3))
        if not (np.array_equal(red, green) and np.array_equal(red, blue)):
            raise LabelError(
                where, "is a colour picture, where one of class numbers is expected", DRAWN
            )
        return red
    if values.ndim != 2 or values.dtype.kind not in "bui":
        what = f" ({values.dtype} of shape {values.shape})"
        raise LabelError(where, "is no label map: expected one channel of integers", None, what)
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    if values.dtype.itemsize > 2 or values.dtype.kind == "i":
        if values.min() < 0 or values.max() > 65535:
            what = f": its values run from {values.min()} to {values.max()}"
            raise LabelError(where, "is no label map", None, what)
        return values.astype(np.uint16)
    return values


def _from_colours(
    pixels: NDArray[np.uint8], encoding: LabelEncoding
) -> tuple[NDArray[np.int32], tuple[tuple[int, int, int], ...]]:
    """Values [H, W] of a label map drawn in colour, RGB [H, W, 3]; and the colours that are no class's."""
    wide = pixels.astype(np.uint32)
    packed = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    known = {r << 16 | g << 8 | b: value for (r, g, b), value in encoding.colours.items()}
    found, places = np.unique(packed, return_inverse=True)
    strange = [c for c in found.tolist() if c not in known]
    known |= {c: -1 - i for i, c in enumerate(strange)}
    table = np.array([known[c] for c in found.tolist()], np.int32)
    values: NDArray[np.int32] = table[places.reshape(packed.shape)]
    return values, tuple((c >> 16, c >> 8 & 255, c & 255) for c in strange)


def strangers(
    file: LabelFile, outside: Iterable[int], where: str, classes: int
) -> list[tuple[LabelError, int]]:
    """What is wrong with the values of a label map, and of how many pixels, by kind.

    Args:
        file: the label map.
        outside: its values that are outside the class list.
        where: what to call it.
        classes: that there are.
    """
    found: list[tuple[LabelError, int]] = []
    if len(file.strange) > FEW:
        kind = "has blended colours between those of the classes"
        detail = f": {len(file.strange):,} colours that are no class's"
        found.append((LabelError(where, kind, RESIZED, detail), int((file.values < 0).sum())))
    for value in sorted(outside):
        count = int((file.values == value).sum())
        if value >= 0:
            kind = f"holds the label value {value}, which is outside the {classes} classes"
            hint = f'If it means "no label", write ignore: [{value}]; if it is a class, name it in `classes:`.'
        elif len(file.strange) <= FEW:
            kind = f"holds the colour {file.strange[-1 - value]}, which is no class's"
            hint = (
                "Write it into `colours:`, for a class of its own or for one that `ignore:` names."
            )
        else:
            continue
        found.append((LabelError(where, kind, hint), count))
    return found
