"""Label maps of PASCAL Context from the annotations of the Detail API (trainval_merged.json)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from c2s.datasets import rle
from c2s.datasets.context import CATEGORIES
from c2s_cache import DataError


class Photo(NamedTuple):
    """An image as the file lists it."""

    key: int
    stem: str
    height: int
    width: int
    phase: str


class Mask(NamedTuple):
    """A region of an image, as run lengths."""

    key: int
    category: int
    counts: str | list[int]


@dataclass(frozen=True)
class Annotations:
    """Photos by image id, and the masks of each by its key, in the order in which they are drawn."""

    file: Path
    photos: dict[str, Photo]
    masks: dict[int, list[Mask]]

    def split_ids(self, split: str) -> list[str]:
        """Image ids of "train" or "val", sorted."""
        return sorted(p.stem for p in self.photos.values() if p.phase == split)

    def label_map(self, image_id: str) -> NDArray[np.uint8]:
        """Label map uint8 [H, W]: 0 = background, v = class v - 1; later masks cover earlier ones.

        Raises:
            DataError: a mask is damaged, or its category is none of the 59.
        """
        photo = self.photos[image_id]
        labels = np.zeros((photo.height, photo.width), np.uint8)
        for mask in self.masks.get(photo.key, []):
            if mask.category != 0 and mask.category not in CATEGORIES:
                raise DataError(
                    f"{self.file}: image {image_id} has the category {mask.category}, which is none of the 59."
                )
            try:
                inside = rle.decode(mask.counts, photo.height, photo.width)
            except DataError as error:
                raise DataError(f"{self.file}: image {image_id}: {error.what}") from error
            labels[inside] = CATEGORIES.index(mask.category) + 1 if mask.category else 0
        return labels


def read_annotations(file: Path) -> Annotations:
    """Read the annotations; of their 590 MB only photos and masks are kept in memory.

    Raises:
        DataError: the file cannot be read or holds something else.
    """
    try:
        with file.open(encoding="utf-8") as source:
            content = json.load(source, object_hook=_keep)
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}).") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{file} is damaged or no annotation file ({error}).") from error
    if not isinstance(content, dict) or not {"images", "annos_segmentation"} <= set(content):
        raise DataError(
            f"{file} is no annotation file of PASCAL Context: it has no images or no segmentations."
        )
    photos = {p.stem: p for p in content["images"] if isinstance(p, Photo)}
    masks: dict[int, list[Mask]] = {}
    for mask in content["annos_segmentation"]:
        if isinstance(mask, Mask):
            masks.setdefault(mask.key, []).append(mask)
    return Annotations(file, photos, masks)


def _keep(found: dict[str, Any]) -> Any:
    """What stays of an object of the file, called for inner objects first."""
    if "counts" in found or "images" in found or "annos_segmentation" in found:
        return found
    if "file_name" in found:
        return Photo(
            found["image_id"],
            Path(found["file_name"]).stem,
            found["height"],
            found["width"],
            found["phase"],
        )
    if "category_id" in found and "segmentation" in found:
        return Mask(found["image_id"], found["category_id"], found["segmentation"]["counts"])
    return None
