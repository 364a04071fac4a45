"""Invariant: what the teacher says of a view is computed here and nowhere else, for a cache or online."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from c2s_cache import Manifest
from c2s_cache.pseudo_mask import pseudo_mask
from c2s_cache.views import crop_labels, inside_image
from c2s_pipeline.kmeans import KMeansBackend
from c2s_pipeline.masks import MaskConfig, latent_grids
from c2s_pipeline.regions import RegionConfig, Regions, masked_regions
from c2s_pipeline.seeds import annotated_cells
from c2s_pipeline.teachers.base import Teacher


@dataclass(frozen=True)
class View:
    """One view of an image: labels and geometry (SPEC 4.3), and its pixels where a stage asks for them.

    `labels` uint8 [H, W] of the source image, without unseen classes; `box` float64 [4] in source
    pixels; `native` uint8 [T, T, 3] and `dense` uint8 [S, S, 3], the view at the teacher's native size
    and at that of the dense pass.
    """

    labels: NDArray[np.uint8]
    box: NDArray[np.float64]
    flip: bool
    native: NDArray[np.uint8] | None = None
    dense: NDArray[np.uint8] | None = None

    def labels_at(self, size: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Labels of the view at `size` pixels, and where it shows the image."""
        height, width = self.labels.shape
        return (
            crop_labels(self.labels, self.box, self.flip, size),
            inside_image(height, width, self.box, self.flip, size),
        )


class ViewTeacher:
    """CLS tokens, dense features, latent grids and region tokens of batches of views.

    Several threads may ask at once.

    Args:
        manifest: settings of every stage.
        teacher: the CLIP model; None if no stage that is asked for looks at pixels.
        backend: K-means backend.

    Attributes:
        passes: images that went through the visual tower so far.
    """

    def __init__(self, manifest: Manifest, teacher: Teacher | None, backend: KMeansBackend) -> None:
        self.manifest, self._teacher, self.backend = manifest, teacher, backend
        self.passes, self._counting = 0, threading.Lock()
        requests = manifest.requests
        self.batch_size = int(requests["teacher"]["batch_size"])
        masks = {k: v for k, v in requests["masks"].items() if k in MaskConfig.model_fields}
        regions = {k: v for k, v in requests["regions"].items() if k in RegionConfig.model_fields}
        self.mask_config = MaskConfig.model_validate(masks)
        self.region_config = RegionConfig.model_validate(regions)
        red, green, blue = (round(255 * c) for c in manifest.teacher.mean)
        self._mean_colour = (red, green, blue)

    @property
    def teacher(self) -> Teacher:
        """The CLIP model."""
        if self._teacher is None:
            raise ValueError("the missing stages need a teacher")
        return self._teacher

    def tokens(
        self, views: Sequence[View], cls: bool = True, dense: bool = True
    ) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
        """Global CLS [n, D] at the native size and dense features [n, h, w, C], as far as asked for.

        Where both sizes are one, a single pass gives both.
        """
        same = self.teacher.dense_size == self.teacher.image_size
        global_cls = tokens = None
        if same or dense:
            global_cls, tokens = self.teacher.dense(_stack(v.dense for v in views))
            self._passed(len(views))
        if cls and not same:
            global_cls = self.teacher.embed_images(_stack(v.native for v in views))
            self._passed(len(views))
        return _numpy(global_cls if cls else None), _numpy(tokens if dense else None)

    def grids(self, views: Sequence[View], tokens: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Latent grids uint8 [n, h, w] from dense features [n, h, w, C]."""
        annotated = [
            annotated_cells(*v.labels_at(self.teacher.dense_size), self.teacher.grid) for v in views
        ]
        return latent_grids(tokens, np.stack(annotated), self.mask_config, self.backend)

    def regions(
        self, views: Sequence[View], grids: NDArray[np.uint8]
    ) -> list[tuple[Regions, NDArray[np.float32]]]:
        """Regions of each view (their images left out) and their CLS tokens [R, D].

        Passes are batched across views.
        """
        size, found = self.teacher.image_size, []
        for view, grid in zip(views, grids, strict=True):
            labels, inside = view.labels_at(size)
            pseudo = pseudo_mask(labels, grid, len(self.manifest.classes), inside)
            assert view.native is not None
            found.append(masked_regions(view.native, pseudo, self.region_config, self._mean_colour))
        images = np.concatenate([r.images for r in found])
        self._passed(len(images))
        cls = np.zeros((0, self.teacher.dim), np.float32)
        if len(images):
            cls = self.teacher.embed_images(images, self.batch_size).cpu().numpy()
        ends = np.cumsum([len(r.ids) for r in found])[:-1]
        bare = [replace(r, images=r.images[:0].copy()) for r in found]
        return list(zip(bare, np.split(cls, ends), strict=True))

    def _passed(self, images: int) -> None:
        with self._counting:
            self.passes += images


def _numpy(values: torch.Tensor | None) -> NDArray[np.float32] | None:
    return None if values is None else values.cpu().numpy()


def _stack(images: Iterable[NDArray[np.uint8] | None]) -> NDArray[np.uint8]:
    return np.stack([image for image in images if image is not None])
