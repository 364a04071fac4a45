"""From cache to batch: parity with the cache's own pieces, whoever loads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from c2s.training.data import BatchStream, block_sizes, collate, load_view, loader
from c2s.training.jitter import NEUTRAL
from c2s.training.module import student_input
from c2s.training.sampler import BatchSequence
from c2s_cache import open_cache
from c2s_cache.views import inside_image


def batches(cache, workers=0, start=0, stop=5, jitter=True, **sequence):
    plan = BatchSequence(block_sizes(cache), 4, seed=1, window=2, **sequence)
    stream = BatchStream(str(cache.path), plan, start, stop, 32, jitter)
    return list(loader(stream, workers, False))


def equal(a, b):
    assert vars(a).keys() == vars(b).keys()
    return all(torch.equal(v, getattr(b, k)) for k, v in vars(a).items() if v is not None)


def test_quarantined_rows_are_left_out(tiny_cache):
    cache = open_cache(tiny_cache)
    assert block_sizes(cache) == (3, 4, 3)
    assert sum(len(cache.read_block(b)) for b in range(cache.blocks)) == 10
    rows = torch.cat([b.rows for b in batches(cache)]).tolist()
    assert sorted(rows[:10]) == [0, 1, 3, 4, 5, 6, 7, 8, 9, 10]


def test_a_batch_is_what_the_cache_holds(tiny_cache):
    cache = open_cache(tiny_cache)
    batch = batches(cache, stop=1, jitter=False)[0]
    samples = {}
    for b in range(cache.blocks):
        block = cache.read_block(b)
        samples |= {int(r): block.sample(i) for i, r in enumerate(block.rows)}
    for i, row in enumerate(batch.rows.tolist()):
        sample = samples[row]
        view = load_view(sample, len(cache.manifest.classes), 32)
        assert np.array_equal(batch.image[i].numpy(), view.image.transpose(2, 0, 1))
        assert np.array_equal(batch.pseudo[i].numpy(), view.pseudo)
        n = len(sample.region_ids)
        assert batch.region_ids[i, :n].tolist() == sample.region_ids.tolist()
        assert (batch.region_ids[i, n:] == -1).all()
        assert not batch.region_cls[i, n:].any()
        assert torch.equal(batch.region_cls[i, :n], torch.from_numpy(sample.region_cls).float())
        assert torch.equal(batch.global_cls[i], torch.from_numpy(sample.global_cls).float())
        # The fixture computed its region areas from the pseudo mask; ours must agree pixel by
        # pixel.
        area = [(view.pseudo == r).mean() for r in sample.region_ids]
        np.testing.assert_allclose(batch.region_area[i, :n].numpy(), area, rtol=1e-6)
        assert not set(np.unique(view.pseudo)) & set(cache.manifest.unseen)


def test_dtypes_and_shapes(tiny_cache):
    batch = batches(open_cache(tiny_cache), stop=1)[0]
    assert batch.image.shape == (4, 3, 32, 32)
    assert batch.image.dtype == torch.uint8
    assert batch.pseudo.dtype == batch.region_ids.dtype == batch.rows.dtype == torch.int64
    assert batch.global_cls.dtype == batch.region_cls.dtype == torch.float32


def test_padding_is_zero_after_distortion_and_normalisation(tiny_cache):
    cache = open_cache(tiny_cache)
    samples = {}
    for b in range(cache.blocks):
        block = cache.read_block(b)
        samples |= {int(r): block.sample(i) for i, r in enumerate(block.rows)}
    padded = 0
    for batch in batches(cache):
        images = student_input(batch, nn.Identity())
        for image, row in zip(images, batch.rows.tolist(), strict=True):
            s = samples[row]
            inside = torch.from_numpy(inside_image(*s.labels.shape, s.box, s.flip, 32))
            assert not image[:, ~inside].any()
            assert image[:, inside].abs().sum() > 0
            padded += int((~inside).any())
    assert padded > 5


def test_resuming_continues_the_sequence(tiny_cache):
    cache = open_cache(tiny_cache)
    whole = batches(cache)
    for start in (1, 3):
        assert all(map(equal, whole[start:], batches(cache, start=start)))


def test_jitter_changes_pixels_only(tiny_cache):
    cache = open_cache(tiny_cache)
    plain, jittered = batches(cache, jitter=False)[0], batches(cache)[0]
    assert plain.jitter is None
    assert torch.equal(plain.image, jittered.image)
    assert torch.equal(plain.pseudo, jittered.pseudo)
    ours, theirs = (student_input(batch, nn.Identity()) for batch in (plain, jittered))
    changed = (ours != theirs).flatten(1).any(1)
    assert torch.equal(changed, (jittered.jitter != torch.tensor(NEUTRAL)).any(1))
    assert changed.any()


def test_views_differ_between_epochs(tiny_views_cache):
    cache = open_cache(tiny_views_cache)
    all_batches = batches(cache, stop=8, jitter=False, views=3)
    first = {}
    differ = 0
    for batch in all_batches:
        for row, cls in zip(batch.rows.tolist(), batch.global_cls, strict=True):
            differ += row in first and not torch.equal(first[row], cls)
            first[row] = cls
    assert differ == 32 - 10


@pytest.mark.slow
def test_worker_processes_change_nothing(tiny_cache):
    cache = open_cache(tiny_cache)
    alone = batches(cache)
    for workers in (1, 2):
        assert all(map(equal, alone, batches(cache, workers)))


def test_images_without_regions_get_one_empty_slot(tiny_cache):
    block = open_cache(tiny_cache).read_block(0)
    view = load_view(block.sample(0), 6, 32)
    bare = type(view)(
        **(
            vars(view)
            | {
                "region_ids": view.region_ids[:0],
                "region_cls": view.region_cls[:0],
                "region_area": view.region_area[:0],
            }
        )
    )
    batch = collate([bare])
    assert batch.region_ids.tolist() == [[-1]]
    assert batch.region_cls.shape == (1, 1, 16)
