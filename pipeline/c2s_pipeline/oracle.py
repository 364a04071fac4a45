"""How well latent masks fit the truth, before any training: the measure of Table XIII.

Every ground-truth mask (the pixels of one class in one view) takes the latent mask of best IoU.
Three groups, each a clustering of its own: "unseen" hides the labels of the unseen classes, as a build
does; "seen" hides those of the seen classes instead; "all" hides every label. (The paper's 49.5 for all
lies below both 58.5 for unseen and 53.1 for seen, so it is no mean of the two.)

Invariant: truth enters the score and which cells are open, never the clustering.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2s_cache import Cache, ConfigError, DataError
from c2s_cache.label_map import size_mismatch, without
from c2s_cache.pseudo_mask import pseudo_mask
from c2s_cache.views import Box, canonical_box, crop_image, crop_labels, decode_image, inside_image
from c2s_pipeline.kmeans import KMeansBackend
from c2s_pipeline.masks import Clusters, MaskConfig, check_windows, clusters, merged_grids
from c2s_pipeline.seeds import annotated_cells
from c2s_pipeline.source import ImageSource
from c2s_pipeline.teachers.base import Teacher

GROUPS = ("unseen", "seen", "all")
MIN_AREA = 0.0025
_STORED = ("labels/data", "images/size", "views/box", "views/flip", "masks/grid")
"""Smaller masks get no region token in a build, so they are not scored."""


@dataclass(frozen=True)
class Match:
    """A ground-truth mask and its best latent mask.

    Attributes:
        class_id: class of the mask.
        iou: IoU with the best latent mask; 0 if there is none.
        purity: fraction of that latent mask that is of its commonest class (255 counts as one).
        latents: latent masks in the view.
    """

    class_id: int
    iou: float
    purity: float
    latents: int


def match_masks(
    truth: NDArray[np.uint8],
    pseudo: NDArray[np.int16],
    num_classes: int,
    classes: Sequence[int],
    min_area: float = MIN_AREA,
) -> list[Match]:
    """Best latent mask of every ground-truth mask of a view.

    IoU counts all pixels of the image; those of true class 255 belong to no ground-truth mask.

    Args:
        truth: uint8 [H, W], class ids, 255 = none.
        pseudo: int16 [H, W], the pseudo mask; latent class u is num_classes + u.
        num_classes: N.
        classes: ids of the classes to look for.
        min_area: smallest fraction of the view that counts as a mask.
    """
    latent = pseudo.astype(np.int64) - num_classes
    count = max(int(latent.max()) + 1, 0)
    inside = latent >= 0
    pairs = truth[inside].astype(np.int64) * count + latent[inside]
    shared = np.bincount(pairs, minlength=256 * count).reshape(256, count)
    latent_area, true_area = shared.sum(0), np.bincount(truth.ravel(), minlength=256)
    present = int((latent_area > 0).sum())
    found = []
    for c in classes:
        if true_area[c] < max(min_area * truth.size, 1):
            continue
        iou = shared[c] / (true_area[c] + latent_area - shared[c])
        best = int(iou.argmax()) if present else -1
        purity = shared[:, best].max() / latent_area[best] if present and iou[best] > 0 else 0.0
        found.append(Match(c, float(iou[best]) if present else 0.0, float(purity), present))
    return found


@dataclass(frozen=True)
class MaskScore:
    """What a setting of the clustering reaches; matches by group."""

    features: str
    config: MaskConfig
    matches: dict[str, list[Match]]

    def as_dict(self) -> dict[str, Any]:
        """JSON form; IoU and purity in per cent.

        Per group: `mIoU` over all masks, `class_mIoU` over the means of the classes, `purity`,
        `latents` per view that has a mask, `masks`, and `classes` (id -> mean IoU); None without a
        mask.
        """
        return {
            "features": self.features,
            **self.config.model_dump(mode="json"),
            **{group: _summary(matches) for group, matches in self.matches.items()},
        }


def _summary(matches: list[Match]) -> dict[str, Any]:
    by_class: dict[int, list[float]] = defaultdict(list)
    for match in matches:
        by_class[match.class_id].append(match.iou)
    means = {c: float(np.mean(v)) for c, v in sorted(by_class.items())}
    return {
        "mIoU": _percent([m.iou for m in matches]),
        "class_mIoU": _percent(list(means.values())),
        "purity": _percent([m.purity for m in matches]),
        "latents": round(float(np.mean([m.latents for m in matches])), 2) if matches else None,
        "masks": len(matches),
        "classes": {c: round(100 * iou, 2) for c, iou in means.items()},
    }


def _percent(values: list[float]) -> float | None:
    return round(100 * float(np.mean(values)), 2) if values else None


def score_settings(
    source: ImageSource,
    teacher: Teacher,
    configs: Sequence[MaskConfig],
    backend: KMeansBackend,
    groups: Sequence[str] = GROUPS,
    limit: int | None = None,
    min_area: float = MIN_AREA,
    batch_size: int = 32,
    advance: Callable[[int], None] | None = None,
) -> list[MaskScore]:
    """Cluster the canonical views of a split under every setting and score them.

    Scored at the teacher's native input size.

    Args:
        source: labelled split; its truth is read.
        teacher: gives the dense features.
        configs: settings of the clustering.
        backend: K-means backend.
        groups: which of `GROUPS`; one without classes is left out.
        limit: only the first so many images.
        min_area: smallest fraction of the view that counts as a mask.
        batch_size: images per teacher pass.
        advance: called with the number of images done.

    Returns:
        One score per setting, in their order.

    Raises:
        ConfigError: there is no image, or windows do not fit the teacher's grid.
        DataError, UnreadableImage: an image or label map cannot be read.
    """
    for config in configs:
        check_windows(config, teacher.grid)
    members = {g: ids for g, ids in _members(source).items() if g in groups and ids}
    scores = [MaskScore(teacher.spec.dense_features, c, {g: [] for g in members}) for c in configs]
    ids = list(source.ids)[:limit]
    if not ids:
        raise ConfigError(f"There is no image of {source.name} to score masks on.")
    size, native = teacher.dense_size, teacher.image_size
    for start in range(0, len(ids), batch_size):
        views = [_read(source, image_id, native, size) for image_id in ids[start:][:batch_size]]
        dense = teacher.dense(np.stack([v.image for v in views]))[1].cpu().numpy()
        for group, hidden in members.items():
            known = [without(v.labels, hidden) for v in views]
            closed = np.stack(
                [
                    annotated_cells(
                        crop_labels(labels, view.box, False, size), view.inside(size), teacher.grid
                    )
                    for labels, view in zip(known, views, strict=True)
                ]
            )
            shown = [
                (crop_labels(v.labels, v.box, False, native), crop_labels(k, v.box, False, native))
                for v, k in zip(views, known, strict=True)
            ]
            clustered: dict[MaskConfig, list[Clusters | None]] = {}
            for score in scores:
                alike = score.config.model_copy(update={"threshold": 0.0, "literal": False})
                if alike not in clustered:
                    clustered[alike] = clusters(dense, closed, alike, backend)
                grids = merged_grids(closed, clustered[alike], score.config)
                for (truth, labels), grid in zip(shown, grids, strict=True):
                    pseudo = pseudo_mask(labels, grid, len(source.classes))
                    score.matches[group] += match_masks(
                        truth, pseudo, len(source.classes), hidden, min_area
                    )
        if advance is not None:
            advance(len(views))
    return scores


def score_cache(
    cache: Cache,
    source: ImageSource,
    min_area: float = MIN_AREA,
    advance: Callable[[int], None] | None = None,
) -> MaskScore:
    """Score the masks that a cache holds, all its views, on its unseen classes.

    Args:
        cache: complete cache.
        source: the split it was built from; its truth is read.
        min_area, advance: as for `score_settings`; `advance` counts blocks.

    Raises:
        ConfigError: the cache is of another data set or split.
        DataError: a label map cannot be read.
    """
    m = cache.manifest
    if (m.classes, m.split) != (source.classes, source.split):
        raise ConfigError(
            f"{cache.path} holds {m.dataset} {m.split}, not {source.name} {source.split}; "
            "its masks can only be scored on its own images."
        )
    size, matches = m.teacher.image_size, []
    for number in range(cache.blocks):
        block, ids = cache.read_block(number, _STORED), cache.ids(number)
        for i in range(len(block)):
            truth = source.labels(ids[int(block.rows[i]) - block.start])
            for view in range(m.views):
                s = block.sample(i, view)
                height, width = s["images/size"]
                visible = s["labels/data"].reshape(height, width)
                box, flip = s["views/box"], bool(s["views/flip"])
                inside = inside_image(height, width, box, flip, size)
                labels = crop_labels(visible, box, flip, size)
                pseudo = pseudo_mask(labels, s["masks/grid"], len(m.classes), inside)
                shown = crop_labels(truth, box, flip, size)
                matches += match_masks(shown, pseudo, len(m.classes), m.unseen, min_area)
        if advance is not None:
            advance(1)
    stored = {k: v for k, v in m.requests["masks"].items() if k in MaskConfig.model_fields}
    config = MaskConfig.model_validate(stored)
    return MaskScore(m.teacher.dense_features, config, {"unseen": matches})


@dataclass(frozen=True)
class _View:
    """Canonical view of an image at the dense size, with the label map of the whole image."""

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    box: Box

    def inside(self, size: int) -> NDArray[np.bool_]:
        height, width = self.labels.shape
        return inside_image(height, width, self.box, False, size)


def _read(source: ImageSource, image_id: str, native: int, size: int) -> _View:
    image, labels = decode_image(source.encoded(image_id)), source.labels(image_id)
    wrong = size_mismatch(labels, *image.shape[:2])
    if wrong is not None:
        raise DataError(f"{image_id}: {wrong}")
    box = canonical_box(image.shape[0], image.shape[1], native)
    return _View(crop_image(image, box, False, size), labels, box)


def _members(source: ImageSource) -> dict[str, list[int]]:
    every = range(len(source.classes))
    return {
        "unseen": sorted(source.unseen),
        "seen": [c for c in every if c not in source.unseen],
        "all": list(every),
    }
