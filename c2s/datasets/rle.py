"""Masks as run lengths, in the compressed text form of the COCO tools."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from c2s_cache import DataError


def run_lengths(text: str) -> list[int]:
    """Run lengths from their text form.

    A number is written in groups of five bits, lowest first, one character (code 48 + group) each; 32
    is added to a group that another follows, and the highest bit of the last group is the sign. From
    the fourth number on, what is written is the difference to the number two before.
    """
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        group = ord(character) - 48
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
        value = shift = 0
    return lengths


def decode(counts: str | Sequence[int], height: int, width: int) -> NDArray[np.bool_]:
    """Mask [height, width] from run lengths, of 0 and 1 in turn, column after column.

    Raises:
        DataError: the runs do not fill the mask.
    """
    lengths = run_lengths(counts) if isinstance(counts, str) else list(counts)
    if min(lengths, default=0) < 0 or sum(lengths) != height * width:
        raise DataError(
            f"run lengths of {sum(lengths)} pixels do not fill a mask of {width} x {height}."
        )
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(width, height).T
