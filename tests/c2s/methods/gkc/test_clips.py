"""Training on clips: frames joined thing by thing, and losses over all frames."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from moving_frames import MOVING, Frames, frames_cache

from c2s.methods.base import Facts
from c2s.methods.batch import Batch
from c2s.methods.examples import cut_view
from c2s.methods.gkc import GKCConfig
from c2s.methods.gkc.examples import NONE
from c2s.methods.gkc.mask_loss import at_points
from c2s.students import create
from c2s.students.base import normalize_images
from c2s.testing import shapes
from c2s_pipeline.stages.registry import closed

T = 2
STAGES = ("labels", "segments", "views", "text", "words", "captions")


@pytest.fixture(scope="module", params=["things", "classes"])
def cache(request):
    """One whose segments are things, and one whose segments are classes."""
    return frames_cache(*STAGES, *(["instances"] if request.param == "things" else []))


def made(cache, **settings):
    """Its rows as examples."""
    examples = GKCConfig(**settings).examples(cache.manifest)
    block = cache.read_block(0, examples.paths)
    cut = [cut_view(block.sample(i), 64) for i in range(len(block))]
    return examples, [examples.example(view, view.sample.arrays) for view in cut]


def build(cache, **settings):
    torch.manual_seed(3)
    student = create("mask2former:shapes", cache.manifest.teacher.dim).train()
    return student, GKCConfig(**settings).build(Facts.of(cache, student))


def losses(student, method, batch):
    torch.manual_seed(1)
    return method(student, normalize_images(batch.image, student), batch)


def test_frames_are_joined_thing_by_thing(cache):
    grounded = {"weights": {"grounding": 1.0}}
    examples, alone = made(cache, frames=T, **grounded)
    batch = examples.collate(alone)
    apart = made(cache, **grounded)[0].collate(alone)
    assert torch.equal(batch.image, apart.image)
    assert batch.image.shape == (4, 3, 64, 64)
    assert batch.segments.shape == (2, 128, 64)
    for clip in range(2):
        frames = alone[2 * clip : 2 * clip + 2]
        things = {}
        for t, e in enumerate(frames):
            for number, key in enumerate(zip(e.classes, e.things, strict=True)):
                things.setdefault(tuple(map(int, key)), []).append((t, number))
        assert (batch.classes[clip] != NONE).sum() == len(things)
        for slot, (key, places) in enumerate(things.items()):
            assert int(batch.classes[clip, slot]) == key[0]
            tokens = [frames[t].tokens[n].astype(np.float32) for t, n in places]
            np.testing.assert_allclose(batch.tokens[clip, slot], np.mean(tokens, 0), rtol=1e-6)
            shown = {t: frames[t].segments == n for t, n in places}
            nowhere = np.zeros((64, 64), bool)
            want = np.concatenate([shown.get(t, nowhere) for t in range(T)])
            np.testing.assert_array_equal(batch.segments[clip] == slot, want)
        said = [caption.tolist() for e in frames for caption in e.captions]
        found = [[n for n in c if n != NONE] for c in batch.captions[clip].tolist()]
        assert [words for words in found if words] == said
    assert batch.captions.shape[0] == 2


def test_things_of_one_class_are_told_apart_in_all_frames():
    """Two crosses, whose numbers in the maps change from one frame to the next; in the clip each has its own."""
    cache = frames_cache(*STAGES, "instances")
    examples, (_, _, *frames) = made(cache, frames=T)
    block = cache.read_block(0, {"instances/map"})
    batch = examples.collate(frames)
    source = [MOVING.instances(name) for name in Frames.ids[2:]]
    cross = MOVING.classes.index("cross")
    slots = np.flatnonzero(batch.classes[0].numpy() == cross).tolist()
    assert len(slots) == 2
    for slot in slots:
        shown = (batch.segments[0] == slot).numpy().reshape(T, 64, 64)
        numbers = {int(i[s][0]) for i, s in zip(source, shown, strict=True)}
        assert len(numbers) == 1
        maps = [block.item("instances/map", 2 + t).reshape(64, 64) for t in range(T)]
        assert len({int(m[s][0]) for m, s in zip(maps, shown, strict=True)}) == 2


def test_a_thing_that_one_frame_lacks_has_the_tokens_of_the_others(cache):
    examples, (one, other, *_) = made(cache, frames=T)
    last = len(other.classes) - 1
    key = (other.classes[last], other.things[last])
    hidden = replace(
        other,
        classes=other.classes[:last],
        tokens=other.tokens[:last],
        things=other.things[:last],
        segments=np.where(other.segments == last, NONE, other.segments).astype(np.int16),
    )
    slot = list(zip(one.classes, one.things, strict=True)).index(key)
    batch = examples.collate([one, hidden])
    np.testing.assert_array_equal(batch.tokens[0, slot], one.tokens[slot].astype(np.float32))
    assert not (batch.segments[0, 64:] == slot).any()
    nothing = replace(
        hidden,
        classes=other.classes[:0],
        tokens=other.tokens[:0],
        things=other.things[:0],
        segments=np.full((64, 64), NONE, np.int16),
    )
    empty = examples.collate([nothing, nothing])
    assert empty.classes.tolist() == [[NONE]]
    assert empty.segments.unique().tolist() == [NONE]


def test_copies_of_an_image_have_its_losses(cache):
    """Of all cells, with words drawn by chance: alone, and as clips of two and of four frames."""
    settings = {"points": 0, "weights": {"grounding": 2.0, "contrast": 1.0}}
    student, method = build(cache, **settings)
    examples, alone = made(cache, **settings)[0], made(cache, frames=T, **settings)[1]
    one = losses(student, method, examples.collate(alone))
    assert float(one["grounding"].detach()) > 0
    for frames in (2, 4):
        student, method = build(cache, frames=frames, **settings)
        examples, _ = made(cache, frames=frames, **settings)
        batch = examples.collate([e for e in alone for _ in range(frames)])
        # Captions are drawn by chance: those of one copy.
        several = losses(student, method, replace(batch, captions=batch.captions[:, :1]))
        for name, value in one.items():
            torch.testing.assert_close(several[name], value, rtol=1e-5, atol=1e-5, msg=name)


def test_points_are_those_of_every_frame(cache):
    """No value is one of two frames."""
    _, method = build(cache, frames=3)
    torch.manual_seed(0)
    masks, points = torch.randn(2, 5, 3 * 8, 8), torch.rand(2, 7, 2)
    found = method._at(masks, points)
    want = [at_points(frame, points) for frame in masks.split(8, dim=2)]
    torch.testing.assert_close(found, torch.cat(want, 2))


def test_losses_at_points_are_means_over_frames(cache, monkeypatch):
    """With the same points in every frame: the means of binary cross-entropies, and one dice over all of them."""
    from c2s.methods.gkc import method as module

    _, method = build(cache, frames=2, points=6)
    points = torch.rand(1, 6, 2)
    monkeypatch.setattr(module, "uncertain_points", lambda m, *_: points.expand(len(m), -1, -1))
    logits, masks = torch.randn(1, 4, 16, 8), (torch.randn(1, 3, 64, 32) > 0).float()
    matches = module.Matches(*torch.tensor([[0, 0], [1, 3], [2, 0]]))
    bce, dice = method._mask_losses(logits, masks, matches, torch.tensor(1.0))
    wanted = [0.0, 0.0]
    for query, segment in ((1, 2), (3, 0)):
        ours = torch.cat(
            [at_points(logits[:, query, None, a : a + 8], points)[0, 0] for a in (0, 8)]
        )
        rows = (slice(0, 32), slice(32, 64))
        theirs = torch.cat([at_points(masks[:, segment, None, r], points)[0, 0] for r in rows])
        wanted[0] += torch.nn.functional.binary_cross_entropy_with_logits(ours, theirs)
        p = ours.sigmoid()
        wanted[1] += 1 - (2 * (p * theirs).sum() + 2) / (p.sum() + theirs.sum() + 2)
    torch.testing.assert_close(bce, wanted[0])
    torch.testing.assert_close(dice, wanted[1])


@pytest.mark.parametrize("points", [0, 64])
def test_all_that_learns_alone_learns_from_clips(cache, points):
    settings = {"points": points, "region_dropout": 0.0}

    def moved(frames):
        student, method = build(cache, frames=frames, **settings)
        examples, alone = made(cache, frames=frames, **settings)
        found = losses(student, method, examples.collate(alone))
        found["loss"].backward()
        assert all(bool(v.isfinite()) for v in found.values())
        both = [*student.named_parameters(), *method.named_parameters(prefix="method")]
        return {n for n, p in both if p.grad is not None and bool((p.grad != 0).any())}

    assert moved(T) == moved(1)


def test_regions_of_classes_are_joined_by_class():
    cache = frames_cache("labels", "views", "masks", "regions", "text", "words")
    settings = {"tokens": "regions", "teacher_token": "global"}
    examples, alone = made(cache, frames=T, **settings)
    batch = examples.collate(alone)
    assert isinstance(batch, Batch)
    for clip in range(2):
        known = [int(c) for c in batch.classes[clip] if c != NONE]
        assert len(set(known)) == len(known)
        assert set(known) == {int(c) for e in alone[2 * clip : 2 * clip + 2] for c in e.classes}


def test_latent_regions_of_clips_are_refused():
    for latent in ("regions", "classes"):
        with pytest.raises(ValueError, match=f"latent={latent}: nothing says which latent regions"):
            GKCConfig(latent=latent, frames=T)
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        GKCConfig(frames=0)


def test_images_alone_read_no_clips():
    cache = shapes.shapes_cache(closed(("labels", "instances", "segments", "views", "text")))
    examples = GKCConfig().examples(cache.manifest)
    assert not any(path.startswith("clips/") for path in examples.paths)
    assert "clips" in GKCConfig.beside
    assert "clips" not in GKCConfig(frames=T).read_stages()
