"""What a build stores, recomputed from the photos with independent means."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans
from small_builds import request

from c2s.datasets.coco_stuff import DESCRIPTOR
from c2s.methods.clip_to_seg.examples import PATHS
from c2s.methods.examples import source_map
from c2s_cache import Cache, open_cache
from c2s_cache.augment import AugmentConfig, draw_view, view_rng
from c2s_cache.integrity import verify
from c2s_cache.picture import decode_image
from c2s_cache.pseudo_mask import pseudo_mask
from c2s_cache.views import canonical_box, crop_image, crop_labels, inside_image
from c2s_pipeline.build.verify import content
from c2s_pipeline.clustering.merge import merge_clusters
from c2s_pipeline.clustering.seeds import annotated_cells, initial_seeds
from c2s_pipeline.stages.registry import recorded_stages
from c2s_pipeline.teachers.base import TeacherSpec
from c2s_pipeline.teachers.registry import load_teacher

UNSEEN = set(DESCRIPTOR.unseen)


def test_every_stored_value_follows_from_the_photo(any_built, tiny_teacher):
    """Recompute each view from its file with open_clip, scikit-learn and the published steps."""
    out, source, views = any_built
    cache = open_cache(out)
    assert verify(cache, content(cache)) == []
    facts, _ = recorded_stages(cache.manifest)["dense"].describe(cache.receipts_of("dense"))
    error = facts["error"]
    assert 0.9999 < error["cosine_min"] <= error["cosine_mean"] <= 1.000001
    assert 0.9 < error["cluster_agreement"] <= 1
    teacher = load_teacher(TeacherSpec(tiny_teacher, None))
    dense_tier = np.asarray(cache.column("dense/tokens"))
    seen, flips, padded = [], 0, 0
    for b in range(cache.blocks):
        block, ids = cache.read_block(b, PATHS), cache.ids(b)
        for i, v in np.ndindex(len(block), views):
            s = block.sample(i, v)
            name = ids[s.row - block.start]
            assert s["images/data"].tobytes() == source.encoded(name)
            labels = source.labels(name)
            labels[np.isin(labels, DESCRIPTOR.unseen)] = 255
            np.testing.assert_array_equal(source_map(s, "labels/data"), labels)
            image = decode_image(s["images/data"].tobytes())
            box, flip = canonical_box(*image.shape[:2], 32), False
            if views > 1:
                box, flip = draw_view(labels, 32, view_rng(0, s.row, v), AugmentConfig())
            np.testing.assert_array_equal(s["views/box"], box)
            assert s["views/flip"] == flip
            view = crop_image(image, box, flip, 32)
            inside = inside_image(*labels.shape, box, flip, 32)
            cls, dense = teacher.dense(view[None])
            np.testing.assert_allclose(s["global_cls/cls"], cls[0], atol=4e-3)
            np.testing.assert_allclose(dense_tier[s.row, v], dense[0], atol=4e-3)
            small = crop_labels(labels, box, flip, 32)
            closed = annotated_cells(small, inside, (4, 4))
            np.testing.assert_array_equal(
                s["masks/grid"],
                expected_grid(dense[0].numpy().astype(np.float16).astype(np.float32), closed),
            )
            pseudo = pseudo_mask(small, s["masks/grid"], 171, inside)
            for region, token in zip(s["regions/id"], s["regions/cls"], strict=True):
                mask = pseudo == region
                masked = view * mask[..., None]
                want = teacher.embed_images(masked[None])[0]
                np.testing.assert_allclose(token, want, atol=4e-3)
            assert set(s["regions/id"]) == {
                r for r in np.unique(pseudo) if r >= 0 and (pseudo == r).mean() >= 0.0025
            }
            assert not set(np.unique(s["labels/data"])) & UNSEEN
            seen.append((s.row, v))
            flips, padded = flips + flip, padded + (not inside.all())
    assert sorted(seen) == [(row, v) for row in range(5) for v in range(views)]
    if views > 1:
        assert min(flips, 15 - flips, padded, 15 - padded) > 0


def expected_grid(dense, closed):
    grid = np.full(closed.shape, 255, np.uint8)
    seeds = initial_seeds(dense, closed, (2, 3))
    if not len(seeds):
        return grid
    tokens = dense[~closed]
    first = np.array([((t - seeds) ** 2).sum(1).argmin() for t in tokens])
    seeds = seeds[np.unique(first)]
    labels = KMeans(len(seeds), init=seeds, n_init=1, max_iter=10, tol=0).fit_predict(tokens)
    used, labels = np.unique(labels, return_inverse=True)
    centres = np.stack([tokens[labels == i].mean(0) for i in range(len(used))])
    out = np.zeros(len(tokens), np.uint8)
    for number, group in enumerate(merge_clusters(centres, 0.9)):
        out[np.isin(labels, group)] = number
    grid[~closed] = out
    return grid


@pytest.mark.slow
def test_int8_tier_is_close_to_float16(build, built, tiny_teacher, tmp_path):
    out, source = built
    build(source, request(tiny_teacher, dense="int8"), tmp_path / "int8.zarr")
    coarse = Cache(tmp_path / "int8.zarr")
    scale = np.asarray(coarse.column("dense/scale"), np.float32)[..., None]
    got = np.asarray(coarse.column("dense/tokens")) * scale
    want = np.asarray(Cache(out).column("dense/tokens"), np.float32)
    cosine = (got * want).sum(-1) / np.linalg.norm(got, axis=-1) / np.linalg.norm(want, axis=-1)
    assert cosine.min() > 0.9995
