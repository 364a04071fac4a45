"""From cache to batch: parity with the cache's own pieces, whoever loads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from stream_batches import EXAMPLES, batches, equal, sequence
from torch import nn

import c2s.training.stream as stream_module
from c2s.methods.clip_to_seg import ClipToSegExamples
from c2s.methods.clip_to_seg.examples import PATHS, TAUGHT
from c2s.methods.examples import cut_view, source_map
from c2s.training.jitter import NEUTRAL
from c2s.training.module import student_input
from c2s.training.stream import BatchStream, block_sizes
from c2s_cache import CacheError, open_cache
from c2s_cache.augment import AugmentConfig
from c2s_cache.picture import decode_image
from c2s_cache.views import crop_image, inside_image

TRANSDUCTIVE = ClipToSegExamples(6, transductive=True)


def example(sample, examples=EXAMPLES):
    """What is learnt from a view, as the cache holds it."""
    return examples.example(cut_view(sample, 32), sample.arrays)


def rows(cache, batches):
    """Row of each image of batches, which the tiny cache's tokens tell."""
    blocks = [cache.read_block(b, PATHS) for b in range(cache.blocks)]
    every = np.ndindex(cache.blocks, cache.manifest.block_rows, cache.manifest.views)
    samples = [blocks[b].sample(i, v) for b, i, v in every if i < len(blocks[b])]
    known = {s["global_cls/cls"].astype(np.float32).tobytes(): s.row for s in samples}
    return [known[token.tobytes()] for batch in batches for token in batch.global_cls.numpy()]


def test_quarantined_rows_are_left_out(cache):
    assert block_sizes(cache) == (3, 4, 3)
    assert sum(len(cache.read_block(b, [])) for b in range(cache.blocks)) == 10
    assert sorted(rows(cache, batches(cache))[:10]) == [0, 1, 3, 4, 5, 6, 7, 8, 9, 10]


def samples(cache, step):
    """What the cache holds of each view of a batch."""
    refs = sequence(cache).batch(step)
    return [cache.read_block(ref.block, PATHS).sample(ref.item, ref.view) for ref in refs]


def test_a_batch_is_what_the_cache_holds(cache):
    batch = batches(cache, stop=1, jitter=False)[0]
    for i, sample in enumerate(samples(cache, 0)):
        view = example(sample)
        assert np.array_equal(batch.image[i].numpy(), view.image.transpose(2, 0, 1))
        assert np.array_equal(batch.pseudo[i].numpy(), view.pseudo)
        n = len(sample["regions/id"])
        assert batch.region_ids[i, :n].tolist() == sample["regions/id"].tolist()
        assert (batch.region_ids[i, n:] == -1).all()
        assert not batch.region_cls[i, n:].any()
        assert torch.equal(batch.region_cls[i, :n], torch.from_numpy(sample["regions/cls"]).float())
        assert torch.equal(batch.global_cls[i], torch.from_numpy(sample["global_cls/cls"]).float())
        # The fixture found its regions in the pseudo mask; ours must hold the same ones.
        assert set(sample["regions/id"]) == set(np.unique(view.pseudo)) - {-1}
        assert not set(np.unique(view.pseudo)) & set(cache.manifest.unseen)


def test_labels_are_mirrored_with_the_view_and_the_grid_is_not(tiny_views_cache):
    """The teacher saw the mirrored view, so its grid lies on it as it is; labels are the source's."""
    cache = open_cache(tiny_views_cache)
    n, seen = len(cache.manifest.classes), {False: 0, True: 0}
    for b in range(cache.blocks):
        block = cache.read_block(b, PATHS)
        for s in (block.sample(i, v) for i in range(len(block)) for v in range(3)):
            pseudo, labels = example(s).pseudo, source_map(s, "labels/data")
            x0, y0, x1, y1 = s["views/box"]
            for y, x in np.argwhere(np.ones((32, 32))):
                across = 31 - x if s["views/flip"] else x
                row = int(np.floor(y0 + (y + 0.5) * (y1 - y0) / 32))
                column = int(np.floor(x0 + (across + 0.5) * (x1 - x0) / 32))
                if not (0 <= row < labels.shape[0] and 0 <= column < labels.shape[1]):
                    assert pseudo[y, x] == -1
                elif labels[row, column] != 255:
                    assert pseudo[y, x] == labels[row, column]
                elif s["masks/grid"][y // 8, x // 8] != 255:
                    assert pseudo[y, x] == n + s["masks/grid"][y // 8, x // 8]
                    seen[s["views/flip"]] += 1
    assert min(seen.values()) > 1000


def test_only_a_transductive_stream_says_which_pixels_are_of_unseen_classes(tiny_views_cache):
    """Replayed like labels: sampled at pixel centres, mirrored; padding is of no class."""
    cache = open_cache(tiny_views_cache)
    assert all(b.unseen is None for b in batches(cache))
    stream = BatchStream(cache.path, sequence(cache), TRANSDUCTIVE, 0, 5, 32, False)
    seen = {(flip, value): 0 for flip in (False, True) for value in (False, True)}
    for step, batch in enumerate(stream):
        for i, ref in enumerate(sequence(cache).batch(step)):
            s = cache.read_block(ref.block, TRANSDUCTIVE.paths).sample(ref.item, ref.view)
            labels, ignored = (source_map(s, f"labels/{name}") for name in ("data", "ignored"))
            x0, y0, x1, y1 = s["views/box"]
            for y, x in np.ndindex(32, 32):
                across = 31 - x if s["views/flip"] else x
                row = int(np.floor(y0 + (y + 0.5) * (y1 - y0) / 32))
                column = int(np.floor(x0 + (across + 0.5) * (x1 - x0) / 32))
                want = (
                    0 <= row < labels.shape[0]
                    and 0 <= column < labels.shape[1]
                    and labels[row, column] == 255
                    and not ignored[row, column]
                )
                assert bool(batch.unseen[i, y, x]) == want
                seen[s["views/flip"], want] += 1
    assert min(seen.values()) > 500


def test_dtypes_and_shapes(tiny_cache):
    batch = batches(open_cache(tiny_cache), stop=1)[0]
    assert batch.image.shape == (4, 3, 32, 32)
    assert batch.image.dtype == torch.uint8
    assert batch.pseudo.dtype == batch.region_ids.dtype == torch.int64
    assert batch.global_cls.dtype == batch.region_cls.dtype == torch.float32


def test_padding_is_zero_after_distortion_and_normalisation(cache):
    padded = 0
    for step, batch in enumerate(batches(cache)):
        images = student_input(batch, nn.Identity())
        for image, s in zip(images, samples(cache, step), strict=True):
            where = (*s["images/size"], s["views/box"], s["views/flip"])
            inside = torch.from_numpy(inside_image(*where, 32))
            assert not image[:, ~inside].any()
            assert image[:, inside].abs().sum() > 0
            padded += int((~inside).any())
    assert padded > 5


def test_resuming_continues_the_sequence(cache):
    """Batch 3 lies in the middle of an epoch of ten images, batch 2 across its end."""
    whole = batches(cache)
    for start in (1, 2, 3):
        assert all(map(equal, whole[start:], batches(cache, start=start)))


@pytest.mark.parametrize("world", [2, 4])
def test_processes_only_partition_a_batch(cache, world):
    whole = batches(cache)
    parts = zip(*[batches(cache, part=(rank, world)) for rank in range(world)], strict=True)
    for batch, ranks in zip(whole, parts, strict=True):
        slots = batch.region_ids.shape[1]  # each part pads its regions to its own largest number
        assert batch.max_id == max(rank.max_id for rank in ranks)
        for key, value in vars(batch).items():
            if key == "max_id":
                continue
            pieces = [getattr(rank, key) for rank in ranks]
            if value is None or key == "scales":
                assert pieces == [value] * world
                continue
            if key.startswith("region"):
                assert max(p.shape[1] for p in pieces) == slots
                pieces = [padded(p, slots, -1 if key == "region_ids" else 0) for p in pieces]
            assert torch.equal(torch.cat(pieces), value)


def padded(tensor, slots, fill):
    return torch.cat([tensor, tensor.new_full((len(tensor), slots, *tensor.shape[2:]), fill)], 1)[
        :, :slots
    ]


def test_jitter_changes_pixels_only(cache):
    plain, jittered = batches(cache, jitter=False)[0], batches(cache)[0]
    assert plain.jitter is None
    assert torch.equal(plain.image, jittered.image)
    assert torch.equal(plain.pseudo, jittered.pseudo)
    ours, theirs = (student_input(batch, nn.Identity()) for batch in (plain, jittered))
    changed = (ours != theirs).flatten(1).any(1)
    assert torch.equal(changed, (jittered.jitter != torch.tensor(NEUTRAL)).any(1))
    assert changed.any()


def replays(cache, start=0, stop=5, **more):
    stream = BatchStream(cache.path, sequence(cache), EXAMPLES, start, stop, 32, True, **more)
    return list(stream)


def test_an_online_teacher_is_shown_the_cached_views(cache):
    for step, batch in enumerate(replays(cache, looks=tuple((s, "bicubic") for s in (16, 24)))):
        for view, s in zip(batch, samples(cache, step), strict=True):
            assert [i.shape[0] for i in view.images] == [16, 24]
            for image in (view.crop.image, *view.images):
                whole = decode_image(s["images/data"].tobytes())
                want = crop_image(whole, s["views/box"], s["views/flip"], len(image))
                np.testing.assert_array_equal(image, want)
            assert view.sample.row == s.row
            assert not set(view.sample.arrays) & {"images/data", *TAUGHT}


def test_fresh_views_are_new_at_every_position_and_repeatable(tiny_cache):
    cache = open_cache(tiny_cache)
    options = {"looks": ((16, "bicubic"),), "fresh": AugmentConfig()}
    whole = replays(cache, **options)
    boxes = {tuple(v.sample["views/box"]) for batch in whole for v in batch}
    assert len(boxes) == 20
    again = [v for batch in replays(cache, start=3, **options) for v in batch]
    for one, two in zip(whole[3] + whole[4], again, strict=True):
        np.testing.assert_array_equal(one.sample["views/box"], two.sample["views/box"])
        np.testing.assert_array_equal(one.crop.image, two.crop.image)
        np.testing.assert_array_equal(one.images[0], two.images[0])


def test_views_differ_between_epochs(tiny_views_cache):
    cache = open_cache(tiny_views_cache)
    all_batches = batches(cache, stop=8, jitter=False)
    first = {}
    differ = 0
    for batch in all_batches:
        for row, cls in zip(rows(cache, [batch]), batch.global_cls, strict=True):
            differ += row in first and not torch.equal(first[row], cls)
            first[row] = cls
    assert differ == 32 - 10


def pixels(cache):
    return 10 * cache.manifest.views * 32 * 32


@pytest.mark.parametrize("examples", [EXAMPLES, TRANSDUCTIVE], ids=["inductive", "transductive"])
def test_views_that_fit_into_memory_are_decoded_once(cache, monkeypatch, examples):
    decoded = []
    original = stream_module.cut_view

    def counting(sample, *sizes):
        decoded.append(sample.row)
        return original(sample, *sizes)

    monkeypatch.setattr(stream_module, "cut_view", counting)
    args = (cache.path, sequence(cache), examples, 0, 30, 32, True)
    enough = (6 if examples is TRANSDUCTIVE else 5) * pixels(cache)

    def run(keep):
        decoded.clear()
        return list(BatchStream(*args, view_cache_bytes=keep)), len(decoded)

    again, each_time = run(enough - 1)
    kept, once = run(enough)
    assert each_time == 30 * 4
    assert once == 10 * cache.manifest.views
    assert all(map(equal, again, kept))
    assert len({tuple(b.jitter[0].tolist()) for b in kept}) > 25  # distortions are drawn anew


def test_what_is_counted_of_a_kept_view_is_what_it_holds(tiny_cache):
    """Pixels; the tokens of its regions are a fraction of them and not counted."""
    block = open_cache(tiny_cache).read_block(0, PATHS)
    view = example(block.sample(0))
    assert view.image.nbytes + view.pseudo.nbytes == EXAMPLES.pixel_bytes * 32 * 32
    assert view.image.base is None or view.image.base.nbytes <= view.image.nbytes


def test_images_without_regions_get_one_empty_slot(tiny_cache):
    block = open_cache(tiny_cache).read_block(0, PATHS)
    view = example(block.sample(0))
    bare = {"region_ids": view.region_ids[:0], "region_cls": view.region_cls[:0]}
    batch = EXAMPLES.collate([replace(view, **bare)])
    assert batch.region_ids.tolist() == [[-1]]
    assert batch.region_cls.shape == (1, 1, 16)


def test_an_image_that_cannot_be_decoded_is_named(tiny_cache, monkeypatch):
    cache = open_cache(tiny_cache)
    read = cache.read_block

    def other(block, paths):
        found = read(block, paths)
        found.arrays["images/data"][:] = 0
        return found

    monkeypatch.setattr(cache, "read_block", other)
    with pytest.raises(
        CacheError, match=r"row \d+ of .* cannot be read: image .*verify .* --quick"
    ):
        list(BatchStream(cache, sequence(cache), EXAMPLES, 0, 1, 32, False))
