"""Invariant: a video is decoded frame by frame, upright, and never held whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from c2s_cache.errors import MissingExtra, UnreadableImage

SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".webm")
"""Of the files that are taken for videos; an animated picture is a photo."""


def is_video(file: Path) -> bool:
    """Whether a file is called like a video."""
    return file.suffix.lower() in SUFFIXES


def require_av() -> None:
    """Ask for the library that decodes videos.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import av  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "Videos need the Python package av, which is not installed.",
            "Install it with: pip install 'c2s[video]'. Or name a folder of frames.",
        ) from error


def frames(file: Path) -> Iterator[NDArray[np.uint8]]:
    """Frames of the first video stream in the order in which they are shown: uint8 RGB [H, W, 3], turned upright by
    quarters where the file says so.

    Raises:
        UnreadableImage: the file is no regular one, has no video stream or no frame, or cannot be decoded, be it at
            some later frame.
        MissingExtra: the package av is not installed.
    """
    require_av()
    import av

    if not file.is_file():
        raise UnreadableImage(f"{file} is no file.")
    count = 0
    try:
        with av.open(str(file)) as container:
            if not container.streams.video:
                raise UnreadableImage(f"{file} has no video stream.")
            for frame in container.decode(video=0):
                pixels = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
                yield np.ascontiguousarray(pixels)
                count += 1
    except (av.FFmpegError, OSError) as error:
        reason = error.strerror or type(error).__name__
        raise UnreadableImage(
            f"{file} cannot be decoded after {count} frames ({reason})."
        ) from error
    if not count:
        raise UnreadableImage(f"{file} has no frame.")
