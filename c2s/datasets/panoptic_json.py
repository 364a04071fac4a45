"""Label maps and numbered segments of COCO panoptic from its official files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from c2s.datasets.coco_panoptic import CLASSES
from c2s_cache import DataError
from c2s_cache.manifest import IGNORE
from c2s_cache.picture import decode_image


class Segment(NamedTuple):
    """A segment of an image: its number in the PNG, its class id, and whether it is a crowd."""

    number: int
    class_id: int
    crowd: bool


@dataclass(frozen=True)
class Panoptic:
    """The segments of every image by its id, and the folder of the PNGs that number their pixels."""

    file: Path
    pngs: Path
    segments: dict[str, tuple[Segment, ...]]

    def label_map(self, image_id: str) -> NDArray[np.uint8]:
        """Class ids uint8 [H, W], 255 where no segment is.

        Raises:
            DataError: the PNG cannot be read.
        """
        numbers = self._numbers(image_id)
        labels = np.full(numbers.shape, IGNORE, np.uint8)
        for segment in self.segments[image_id]:
            labels[numbers == segment.number] = segment.class_id
        return labels

    def instance_map(self, image_id: str) -> NDArray[np.uint16]:
        """Segments uint16 [H, W], counted from 1; 0 where there is none, or a crowd.

        Raises:
            DataError: the PNG cannot be read.
        """
        numbers = self._numbers(image_id)
        found = np.zeros(numbers.shape, np.uint16)
        for k, segment in enumerate(self.segments[image_id], 1):
            if not segment.crowd:
                found[numbers == segment.number] = k
        return found

    def _numbers(self, image_id: str) -> NDArray[np.uint32]:
        """Red + 256 green + 65536 blue of every pixel."""
        png = self.pngs / f"{image_id}.png"
        try:
            drawn = decode_image(png.read_bytes()).astype(np.uint32)
        except OSError as error:
            raise DataError(f"{png} cannot be read ({error.strerror}).") from error
        numbers = drawn[..., 0] | drawn[..., 1] << 8 | drawn[..., 2] << 16
        return numbers.astype(np.uint32)


def read_panoptic(file: Path, pngs: Path) -> Panoptic:
    """Read the annotations of a split.

    Raises:
        DataError: the file cannot be read, or is not of COCO panoptic.
    """
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is damaged or no JSON ({error}).") from error
    try:
        ids = {c["id"]: CLASSES.index(c["name"]) for c in content["categories"]}
        found = {Path(a["file_name"]).stem: _segments(a, ids) for a in content["annotations"]}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file} is no annotation file of COCO panoptic ({error!r}).") from error
    return Panoptic(file, pngs, found)


def _segments(annotation: Any, ids: dict[int, int]) -> tuple[Segment, ...]:
    return tuple(
        Segment(int(s["id"]), ids[s["category_id"]], bool(s.get("iscrowd")))
        for s in annotation["segments_info"]
    )
