"""The oracle of Table XIII against mask-by-mask counting, and on features whose clusters are known."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from small_builds import made

from c2s.datasets import FolderSplit
from c2s.datasets.coco_stuff import DESCRIPTOR
from c2s_cache import ConfigError, open_cache
from c2s_pipeline.build.builder import build, load_teacher
from c2s_pipeline.clustering.kmeans import SklearnKMeans
from c2s_pipeline.clustering.latent import ClusterSettings
from c2s_pipeline.mask_quality import Match, match_masks, score_cache, score_settings
from c2s_pipeline.mask_views import cached_views, teacher_views

N = 5
shapes = st.tuples(st.integers(1, 6), st.integers(1, 6))
views = shapes.flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 3, 4, 255])),
        hnp.arrays(np.int16, shape, elements=st.integers(-1, N + 3)),
    )
)


@settings(max_examples=100, deadline=None)
@given(view=views, classes=st.sets(st.integers(0, N - 1)).map(sorted), area=st.floats(0, 0.5))
def test_parity_with_counting_mask_by_mask(view, classes, area):
    truth, pseudo = view
    latents = [pseudo == u for u in np.unique(pseudo) if u >= N]
    want = []
    for c in classes:
        mask = truth == c
        if mask.sum() == 0 or mask.mean() < area:
            continue
        ious = [(mask & m).sum() / (mask | m).sum() for m in latents]
        want.append((c, max(ious, default=0.0), len(latents)))
    got = match_masks(truth, pseudo, N, classes, area)
    assert [(m.class_id, m.iou, m.latents) for m in got] == want
    for match in got:
        best = [m for m in latents if (m & (truth == match.class_id)).any()]
        purities = [np.unique(truth[m], return_counts=True)[1].max() / m.sum() for m in best]
        assert match.purity in purities or (match.iou == match.purity == 0)


def test_matches_by_hand():
    """One class found whole but with stray rows, one half found."""
    truth, mask = np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.int16)
    truth[:16], truth[48:] = 3, 4
    mask[:18], mask[48:56] = N, N + 1
    assert match_masks(truth, mask, N, [1, 3, 4]) == [
        Match(3, pytest.approx(16 / 18), pytest.approx(16 / 18), 2),
        Match(4, pytest.approx(0.5), pytest.approx(1.0), 2),
    ]


@dataclass
class Quarters:
    """Images of four quarters, each of one class; the colour says which."""

    count: int = 3
    name: str = "quarters"
    split: str = "dev"
    classes: tuple[str, ...] = ("a", "b", "c", "d", "e")
    unseen: tuple[int, ...] = (1, 3)
    labelled: bool = True
    cut: int = 16
    read: list[str] = field(default_factory=list)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(str(i) for i in range(self.count))

    def identity(self, ids: Sequence[str]) -> dict[str, Any]:
        return {}

    def labels(self, image_id: str) -> np.ndarray:
        self.read.append(image_id)
        out = np.zeros((32, 32), np.uint8)
        out[:16, self.cut :], out[16:, : self.cut], out[16:, self.cut :] = 1, 2, 3
        return (out + int(image_id)) % N

    def encoded(self, image_id: str) -> bytes:
        buffer = io.BytesIO()
        grey = (self.labels(image_id) * 40).astype(np.uint8)
        Image.fromarray(np.repeat(grey[..., None], 3, 2)).save(buffer, "PNG")
        return buffer.getvalue()


class Colours:
    """A teacher whose dense features are one-hot colours, or all the same."""

    image_size = dense_size = 32
    grid = (8, 8)
    dense_features = "plain"
    resize_mode, interpolation = "shortest", "bicubic"

    def info(self):
        return self

    def __init__(self, blind: bool = False) -> None:
        self.blind = blind

    def dense(self, images):
        cells = torch.from_numpy(images[:, 2::4, 2::4, 0] // 40).long()
        features = torch.nn.functional.one_hot(cells, N).float()
        return None, torch.ones_like(features) if self.blind else features


def score(source, teacher, config=None, limit=None, **options):
    config = config or ClusterSettings(windows=(1, 3), threshold=0.9)
    views = teacher_views(source, teacher, limit)
    return score_settings(views, source, teacher, [config], SklearnKMeans(), **options)[0].as_dict()


def test_clusters_that_are_the_classes_score_100_in_every_group():
    got = score(Quarters(), Colours())
    assert [got[g]["mIoU"] for g in ("unseen", "seen", "all")] == [100.0] * 3
    assert [got[g]["purity"] for g in ("unseen", "seen", "all")] == [100.0] * 3
    assert [got[g]["masks"] for g in ("unseen", "seen", "all")] == [5, 7, 12]
    assert got["all"]["latents"] == 4
    assert set(got["unseen"]["classes"]) == {1, 3}


def test_one_cluster_for_everything_scores_what_it_covers():
    got = score(Quarters(count=1), Colours(blind=True))
    # unseen: two quarters lie open and share the latent; seen the same; all: a quarter of it each
    assert [got[g]["mIoU"] for g in ("unseen", "seen", "all")] == [50.0, 50.0, 25.0]
    assert [got[g]["latents"] for g in ("unseen", "seen", "all")] == [1, 1, 1]


def test_classes_weigh_the_same_in_the_class_mean():
    got = score(Quarters(count=2), Colours(blind=True), groups=("unseen",))["unseen"]
    # image 0: classes 1 and 3 open, IoU 1/2 each; image 1: quarters 1 2 3 4, 1 and 3 again
    assert (got["mIoU"], got["class_mIoU"]) == (50.0, 50.0)
    uneven = score(Quarters(count=1, cut=12), Colours(blind=True), groups=("unseen",))["unseen"]
    assert uneven["classes"] == {1: 50.0, 3: 50.0}
    got = score(Quarters(count=3), Colours(blind=True), groups=("unseen",))["unseen"]
    # image 2: quarters 2 3 4 0, so class 3 lies open alone and is found whole
    assert got["mIoU"] == pytest.approx(60.0)
    assert got["class_mIoU"] == pytest.approx((50 + 200 / 3) / 2, abs=0.01)


def test_a_group_without_classes_is_left_out_and_limits_hold():
    source = Quarters(unseen=())
    got = score(source, Colours(), limit=2)
    assert "unseen" not in got
    assert set(source.read) == {"0", "1"}
    with pytest.raises(ConfigError, match="no image of quarters"):
        score(Quarters(count=0), Colours())


@pytest.mark.slow
def test_stored_masks_score_as_freshly_made_ones(tiny_teacher, scheduler, coco_tree, tmp_path):
    source = FolderSplit(DESCRIPTOR, coco_tree(5), "train")
    request = made(
        teacher=tiny_teacher,
        view_size=48,
        block_rows=2,
        batch_size=2,
        masks={"windows": (2, 3), "threshold": 0.6},
    )
    build(source, request, tmp_path / "c.zarr", scheduler=scheduler)
    stored = score_cache(open_cache(tmp_path / "c.zarr"), source)
    teacher, _ = load_teacher(request)
    settings = [request.masks, request.masks.model_copy(update={"threshold": 0.9})]
    cached, fresh = (
        score_settings(views, source, teacher.info(), settings, SklearnKMeans(), ("unseen",))
        for views in (
            cached_views(open_cache(tmp_path / "c.zarr"), source),
            teacher_views(source, teacher, batch_size=2),
        )
    )
    for one, other in zip(cached, fresh, strict=True):  # in another order of the images
        assert sorted(map(repr, one.matches["unseen"])) == sorted(
            map(repr, other.matches["unseen"])
        )
    fresh = fresh[0]
    assert len(stored.matches["unseen"]) > 3
    assert sorted(map(repr, stored.matches["unseen"])) == sorted(map(repr, fresh.matches["unseen"]))
    with pytest.raises(ConfigError, match="holds coco-stuff train, not quarters dev"):
        score_cache(open_cache(tmp_path / "c.zarr"), Quarters())
