"""The Shapes world as a data set: scenes are drawn on demand, nothing lies on disk."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from c2s.datasets.descriptor import TestProtocol
from c2s.datasets.split import Split
from c2s.shapes import scenes
from c2s.shapes.defaults import WORLD
from c2s_cache import DataError

THINGS = "shapes-things"
"""The same scenes, of which only the things have names; the rest is background."""
_AMONG_THINGS = np.array(
    [scenes.THINGS.index(c) + 1 if c in scenes.THINGS else 0 for c in scenes.CLASSES], np.uint8
)
MOVING, FRAMES = "shapes-moving", 8
"""Clips of so many frames that begin with the same scenes; their things drift and turn."""
CROWDED, SIDE, CROWD = "shapes-crowded", 96, (6, 8)
"""Scenes of so many pixels a side with so many things on the same grounds."""
COUNTS = {"train": 2000, "val": 400, "dev": 400}
"""Scenes per split: `train` for students, `val` for scores, `dev` for choosing settings."""


def shapes_protocol(name: str) -> TestProtocol:
    """How a world of Shapes is tested: by its name."""
    background = 0 if name == THINGS else None
    return TestProtocol(64, 53, 64, background).at(SIDE if name == CROWDED else 64)


def usual_protocol(dataset: str) -> TestProtocol:
    """How images of no data set are tested by what was trained on one: as is usual, or as the small scenes of
    Shapes."""
    return shapes_protocol(dataset) if dataset in WORLD else TestProtocol()


class ShapesSplit(Split):
    """One split of the Shapes world.

    Args:
        split: split name.
        unseen: ids of the unseen classes; default: the world's own.
        name: of the data set: the same scenes may have classes of other names.
        classes: these names.
    """

    def __init__(
        self,
        split: str,
        unseen: tuple[int, ...] | None = None,
        name: str = "shapes",
        classes: tuple[str, ...] = scenes.CLASSES,
    ) -> None:
        self._split, self._name, self._classes = split, name, classes
        known = classes if name == THINGS else scenes.CLASSES
        own = tuple(i for i, called in enumerate(known) if called in scenes.UNSEEN)
        self._unseen = own if unseen is None else unseen

    @property
    def split(self) -> str:
        """Split name."""
        return self._split

    @property
    def name(self) -> str:
        """Data set name."""
        return self._name

    @property
    def classes(self) -> tuple[str, ...]:
        """All class names in id order."""
        return self._classes

    @property
    def unseen(self) -> tuple[int, ...]:
        """Ids of the unseen classes."""
        return self._unseen

    @property
    def instanced(self) -> bool:
        """Every thing that was drawn is one."""
        return True

    @property
    def captioned(self) -> bool:
        """Whether what its captions call the classes is what they are called."""
        return self._classes == scenes.CLASSES

    @property
    def clips(self) -> bool:
        """Those of `shapes-moving` are frames."""
        return self._name == MOVING

    @property
    def ids(self) -> tuple[str, ...]:
        """Scene ids.

        Raises:
            DataError: there is no such split.
        """
        if self._split not in COUNTS:
            raise DataError(
                f"data set {self.name} has no split {self.split!r}.",
                f"Splits: {', '.join(COUNTS)}.",
            )
        count = COUNTS[self.split]
        if self._name != MOVING:
            return tuple(f"{self.split}-{i:06d}" for i in range(count))
        clips = range(count // FRAMES)
        return tuple(f"{self.split}-{i:06d}-{t}" for i in clips for t in range(FRAMES))

    def clip(self, image_id: str) -> str | None:
        """Its scene, of `shapes-moving`."""
        return image_id.rpartition("-")[0] if self.clips else None

    def identity(self, ids: Sequence[str]) -> dict[str, Any]:
        """Name, split, and a digest over the first of the scenes: changes when the renderer does."""
        hasher = hashlib.sha256()
        for image_id in ids[:8]:
            scene = self._scene(image_id)
            hasher.update(scene.image.tobytes() + scene.labels.tobytes())
        return {"dataset": self.name, "split": self.split, "scenes": hasher.hexdigest()}

    def encoded(self, image_id: str) -> bytes:
        """The scene as PNG."""
        buffer = io.BytesIO()
        Image.fromarray(self._scene(image_id).image).save(buffer, "PNG", compress_level=3)
        return buffer.getvalue()

    def labels(self, image_id: str) -> NDArray[np.uint8]:
        """Label map uint8 [H, W] over all classes; every pixel is annotated."""
        labels = self._scene(image_id).labels
        return _AMONG_THINGS[labels] if self._name == THINGS else labels.copy()

    def instances(self, image_id: str) -> NDArray[np.uint8]:
        """See `Split.instances`."""
        return self._scene(image_id).instances.copy()

    def captions(self, image_id: str) -> tuple[str, ...]:
        """The one that it was drawn with; it calls classes by their names."""
        return (self._scene(image_id).caption,)

    def _scene(self, image_id: str) -> scenes.Scene:
        return _render(self._name, image_id)


@lru_cache(maxsize=64)
def _render(dataset: str, image_id: str) -> scenes.Scene:
    """A scene; those asked for last are kept, as image and labels are asked for one after the other."""
    split, index, *frame = image_id.split("-")
    if dataset == CROWDED:
        return scenes.render(split, int(index), size=SIDE, things=CROWD)
    return scenes.render(split, int(index), time=float(frame[0]) if frame else 0.0)
