"""How well latent masks fit the truth, before any training: the measure of Table XIII.

Every ground-truth mask (the pixels of one class in one view) takes the latent mask of best IoU.
Three groups, each a clustering of its own: "unseen" hides the labels of the unseen classes, as a build
does; "seen" hides those of the seen classes instead; "all" hides every label. (The paper's 49.5 for all
lies below both 58.5 for unseen and 53.1 for seen, so it is no mean of the two.)

Invariant: truth enters the score and which cells are open, never the clustering.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2s_cache import Cache, TeacherInfo
from c2s_cache.pseudo_mask import MIN_AREA, pseudo_mask
from c2s_pipeline.clustering.kmeans import KMeansBackend
from c2s_pipeline.clustering.latent import (
    Clusters,
    ClusterSettings,
    check_windows,
    clusters,
    merged_grids,
)
from c2s_pipeline.clustering.seeds import annotated_cells
from c2s_pipeline.mask_views import TrueView, cached_samples, require_source
from c2s_pipeline.source import ImageSource, SplitInfo
from c2s_pipeline.stages.masks import GRID, Masks
from c2s_pipeline.stages.views import BOX, FLIP

GROUPS = ("unseen", "seen", "all")


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
    config: ClusterSettings
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
    batches: Iterable[Sequence[TrueView]],
    source: SplitInfo,
    teacher: TeacherInfo,
    configs: Sequence[ClusterSettings],
    backend: KMeansBackend,
    groups: Sequence[str] = GROUPS,
    min_area: float = MIN_AREA,
    advance: Callable[[int], None] | None = None,
) -> list[MaskScore]:
    """Cluster views under every setting and score the masks, at the teacher's native input size.

    Args:
        batches: of `teacher_views` or `cached_views`.
        source: the split that they are of.
        teacher: that gave their dense features.
        configs: settings of the clustering.
        backend: K-means backend.
        groups: which of `GROUPS`; one without classes is left out.
        min_area: smallest fraction of the view that counts as a mask.
        advance: called with the number of views done.

    Returns:
        One score per setting, in their order.

    Raises:
        ConfigError: windows do not fit the teacher's grid.
    """
    for config in configs:
        check_windows(config, teacher.grid)
    members = {g: ids for g, ids in _members(source).items() if g in groups and ids}
    scores = [MaskScore(teacher.dense_features, c, {g: [] for g in members}) for c in configs]
    size, native = teacher.dense_size, teacher.image_size
    for views in batches:
        tokens = np.stack([view.tokens for view in views])
        for group, hidden in members.items():
            closed = np.stack(
                [
                    annotated_cells(v.truth(size, hidden), v.inside(size), teacher.grid)
                    for v in views
                ]
            )
            shown = [(v.truth(native), v.truth(native, hidden), v.inside(native)) for v in views]
            clustered: dict[ClusterSettings, list[Clusters | None]] = {}
            for score in scores:
                alike = score.config.model_copy(update={"threshold": 0.0, "literal": False})
                if alike not in clustered:
                    clustered[alike] = clusters(tokens, closed, alike, backend)
                grids = merged_grids(closed, clustered[alike], score.config)
                for (truth, labels, inside), grid in zip(shown, grids, strict=True):
                    pseudo = pseudo_mask(labels, grid, len(source.classes), inside)
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
        min_area, advance: as for `score_settings`.

    Raises:
        ConfigError: the cache is of another data set or split.
        DataError: a label map cannot be read.
    """
    require_source(cache, source)
    m = cache.manifest
    size, matches = m.teacher.image_size, []
    for sample, truth in cached_samples(cache, source, (GRID, BOX, FLIP)):
        view = TrueView(truth, sample[BOX], bool(sample[FLIP]), np.zeros((0, 0, 0), np.float32))
        labels, inside = view.truth(size, m.unseen), view.inside(size)
        pseudo = pseudo_mask(labels, sample[GRID], m.num_classes, inside)
        matches += match_masks(view.truth(size), pseudo, m.num_classes, m.unseen, min_area)
        if advance is not None:
            advance(1)
    settings = Masks.recorded(m.stage(Masks.name)).settings
    return MaskScore(m.teacher.dense_features, settings, {"unseen": matches})


def _members(source: SplitInfo) -> dict[str, list[int]]:
    every = range(len(source.classes))
    return {
        "unseen": sorted(source.unseen),
        "seen": [c for c in every if c not in source.unseen],
        "all": list(every),
    }
