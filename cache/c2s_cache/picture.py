"""Invariant: photos and label maps are read by one function, as viewers show them: upright, the first frame."""

from __future__ import annotations

import io
import os
import re
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from c2s_cache.errors import C2SError, ConfigError, UnreadableImage

# Corrupt EXIF blocks and the like: the pixels are still whole. Once and for all, because a filter
# around each call would not be safe among threads.
warnings.filterwarnings("ignore", module=r"PIL\.")

MOST_PIXELS = "C2S_MAX_PIXELS"
"""Environment variable: pixels that a picture may have, in place of Pillow's 178,956,970."""
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0
"""Tags of TIFF that Pillow leaves to us where a pixel has more than 8 bits; 12 lie at the lower end of 16."""
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")


@dataclass(frozen=True)
class Picture:
    """A picture that is open.

    Attributes:
        image: its first frame, upright.
        orientation: what its EXIF says, 1 to 8; 1: it lies in the file as it is shown.
        more: whether the file has further frames or pages.
        lossy: name of its format if that changes values of pixels, else None.
    """

    image: Image.Image
    orientation: int
    more: bool
    lossy: str | None


@contextmanager
def opened(data: bytes, refusal: Callable[[str], C2SError]) -> Iterator[Picture]:
    """Open an encoded picture; its pixels may be read within the block.

    Args:
        data: the file.
        refusal: makes the error to raise of a reason, such as "no known image format".

    Raises:
        C2SError: what `refusal` makes: the bytes are cut off or no picture, or it has too many pixels.
        ConfigError: C2S_MAX_PIXELS is no number.
    """
    try:
        _allow_pixels()
        if data[4:8] == b"ftyp" and any(brand in data[8:40] for brand in _HEIF):
            _allow_heic()
        with Image.open(io.BytesIO(data)) as image:
            told = image.getexif().get(ExifTags.Base.Orientation, 1)
            orientation = told if told in range(1, 9) else 1  # what is unknown turns nothing
            # A camera's MPO has previews behind the photo; of a GIF, whether there are more is known sooner.
            more = image.format != "MPO" and bool(getattr(image, "is_animated", False))
            lossy = _lossy(image, data)
            ImageOps.exif_transpose(image, in_place=True)  # copies only what it has to turn
            yield Picture(image, orientation, more, lossy)
    except UnidentifiedImageError as error:
        # Its text has an address in memory, which no receipt may have.
        raise refusal("no known image format") from error
    except ModuleNotFoundError as error:
        raise refusal("HEIC is read with pillow-heif: pip install 'c2s[heic]'") from error
    except Image.DecompressionBombError as error:
        pixels = re.findall(r"\d+", str(error))[0]
        raise refusal(
            f"{int(pixels):,} pixels; if it is meant to be so large: {MOST_PIXELS}={pixels}"
        ) from error
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise refusal(str(error)) from error


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """Decode an encoded photo to uint8 RGB [H, W, 3], upright (EXIF orientation applied); see `rgb`.

    Raises:
        UnreadableImage: the bytes are truncated, no known image format, or of more than 16 bits.
    """
    with opened(data, undecodable) as picture:
        return rgb(picture.image)


def undecodable(reason: str) -> UnreadableImage:
    """The refusal of a photo."""
    return UnreadableImage(f"image cannot be decoded ({reason}).")


def rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Pixels of a picture in any mode of at most 16 bits, uint8 RGB [H, W, 3].

    Of 16 bits the upper 8 are taken, as Pillow does where a file has three channels of them.

    Raises:
        UnreadableImage: whole numbers of 32 bits or fractions, whose black and white nothing says.
    """
    wide = image.mode.startswith("I;16")
    if image.mode == "I" and image.format == "PPM":  # Pillow brings what has over 8 bits to 16
        wide = True
    if wide:
        tags = getattr(image, "tag_v2", {})  # a TIFF's
        bits = 12 if tags.get(_BITS) == (12,) else 16
        upper = (np.asarray(image) >> (bits - 8)).astype(np.uint8)
        image = Image.fromarray(255 - upper if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else upper)
    elif image.mode in ("I", "F"):
        kind = "whole numbers of 32 bits" if image.mode == "I" else "fractions"
        raise UnreadableImage(f"image has {kind} as pixels; expected 8 or 16 bits.")
    return np.asarray(image.convert("RGB"))


def _lossy(image: Image.Image, data: bytes) -> str | None:
    """Name of a format that changes values; JPEG 2000, AVIF and HEIC do not say which of their files do not."""
    if image.format == "TIFF":
        compression = str(image.info.get("compression", ""))
        return f"TIFF with {compression.upper()}" if compression in ("jpeg", "webp") else None
    if image.format == "WEBP" and _webp_is_lossless(data):
        return None
    names = {"JPEG": "JPEG", "MPO": "JPEG", "JPEG2000": "JPEG 2000", "WEBP": "lossy WebP"}
    return (names | {"AVIF": "AVIF", "HEIF": "HEIC"}).get(image.format or "")


def _webp_is_lossless(data: bytes) -> bool:
    """Whether no frame of a WebP file is a lossy one: its chunks are VP8L, or in ANMF ones that hold such."""
    at = 12
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if name == b"VP8 " or (name == b"ANMF" and b"VP8 " in data[at + 24 : at + 8 + size]):
            return False
        at += 8 + size + size % 2
    return True


def _allow_pixels() -> None:
    given = os.environ.get(MOST_PIXELS)
    if not given:
        return
    try:
        most = int(float(given))
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"{MOST_PIXELS}={given!r} is no number of pixels.") from error
    Image.MAX_IMAGE_PIXELS = -(-most // 2)  # Pillow refuses twice as many


@lru_cache(maxsize=1)
def _allow_heic() -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()
