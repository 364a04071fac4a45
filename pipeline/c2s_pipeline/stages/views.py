"""Stage `views`: the geometry in which teacher and student see each image (SPEC 4.3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from c2s_cache import ArrayRecord
from c2s_cache.augment import AugmentConfig, draw_view, view_rng
from c2s_cache.manifest import Interpolation
from c2s_cache.views import canonical_box, crop_image, crop_labels, inside_image
from c2s_pipeline.batch import Batch
from c2s_pipeline.stages.base import Items, Outline, Stage, StageSettings, option
from c2s_pipeline.stages.images import image
from c2s_pipeline.stages.labels import label_maps

BOX, FLIP = "views/box", "views/flip"


class ViewsSettings(StageSettings):
    """`count` views per image: 1 is the canonical one, CLIP's own preprocessing; more are drawn at random, as `augment`
    says, of the side at which students see them."""

    count: int = option(
        "--views",
        "Views per image: 1 is CLIP's own canonical view, more are random views (resize ratio, crop, flip; --set "
        "views.augment.ratio=[0.5,2.0]) that training replays",
        default=1,
        ge=1,
        le=1000,
    )
    augment: AugmentConfig = AugmentConfig()

    def idle(self) -> Mapping[str, str]:
        """See `StageSettings.idle`."""
        return {"augment": "a single view is the canonical one"} if self.count == 1 else {}


class Views(Stage):
    """Boxes and mirrorings; random ones depend on seed, row, view and label map alone."""

    name = "views"
    Settings = ViewsSettings
    settings: ViewsSettings
    needs = ("images",)
    uses = ("labels",)

    def upstream(self, outline: Outline) -> tuple[str, ...]:
        """The canonical view does not look at labels."""
        return self.needs if self.settings.count == 1 else super().upstream(outline)

    def decisive(self, outline: Outline) -> tuple[str, ...]:
        """The teacher's side decides the canonical view, the students' side and the seed the others."""
        return (
            ("teacher.image_size", "teacher.resize_mode")
            if self.settings.count == 1
            else ("view_size", "seed")
        )

    def axes(self, outline: Outline) -> dict[str, int]:
        """The views; the edges of a box."""
        return {"view": self.settings.count, "edge": 4}

    def arrays(self, outline: Outline) -> dict[str, ArrayRecord]:
        """See `Stage.arrays`."""
        return {
            BOX: ArrayRecord(axes=("view", "edge"), dtype="float64"),
            FLIP: ArrayRecord(axes=("view",), dtype="bool"),
        }

    def compute(self, batch: Batch) -> Items:
        """The canonical view, or random ones."""
        boxes, flips = [], []
        for row, labels in zip(batch.rows, label_maps(batch), strict=True):
            for box, flip in self._drawn(batch, row, labels):
                boxes.append(np.array(box))
                flips.append(np.array(flip))
        return {BOX: boxes, FLIP: flips}

    def _drawn(
        self, batch: Batch, row: int, labels: NDArray[np.uint8]
    ) -> Iterator[tuple[tuple[float, ...], bool]]:
        m = batch.manifest
        if self.settings.count == 1:
            height, width = labels.shape
            teacher = m.teacher
            yield canonical_box(height, width, teacher.image_size, teacher.resize_mode), False
            return
        for view in range(self.settings.count):
            yield draw_view(labels, m.view_size, view_rng(m.seed, row, view), self.settings.augment)


def keep_pixels(
    batch: Batch, size: int, interpolation: Interpolation, pixels: NDArray[np.uint8]
) -> None:
    """Take all views of a batch at `size` pixels, uint8 [n, size, size, 3], as they were cut elsewhere."""
    batch.shared(_key(size, interpolation), lambda: pixels)


def _key(size: int, interpolation: Interpolation) -> str:
    return f"views at {size}, {interpolation}"


def view_pixels(
    batch: Batch, size: int, interpolation: Interpolation | None = None
) -> NDArray[np.uint8]:
    """All views of a batch at `size` pixels, as the teacher sees them or by another interpolation: uint8
    [n, size, size, 3]."""
    filtered = interpolation or batch.manifest.teacher.interpolation

    def cut() -> NDArray[np.uint8]:
        views = batch.manifest.views
        places = zip(batch.items(BOX), batch.items(FLIP), strict=True)
        return np.stack(
            [
                crop_image(image(batch, n // views), box, bool(flip), size, filtered)
                for n, (box, flip) in enumerate(places)
            ]
        )

    return batch.shared(_key(size, filtered), cut)


def view_labels(batch: Batch, size: int) -> list[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """Of every view of a batch: labels uint8 [size, size], 255 where none, and where it shows the image, bool."""

    def cut() -> list[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
        views, found = batch.manifest.views, []
        maps = label_maps(batch)
        places = zip(batch.items(BOX), batch.items(FLIP), strict=True)
        for n, (box, flip) in enumerate(places):
            labels = maps[n // views]
            height, width = labels.shape
            inside = inside_image(height, width, box, bool(flip), size)
            found.append((crop_labels(labels, box, bool(flip), size), inside))
        return found

    return batch.shared(f"labels at {size}", cut)
