"""Frames of a clip that go together: where a cache says so, and what they share."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from moving_frames import frames_cache

from c2s.methods.gkc import GKCConfig
from c2s.runs.config import load_config
from c2s.testing import shapes
from c2s.training.clips import clips_of
from c2s.training.datamodule import C2SDataModule
from c2s.training.run import build_module
from c2s.training.stream import loader
from c2s_cache import CacheError, ConfigError
from c2s_pipeline.stages.registry import closed

STAGES = ("labels", "instances", "segments", "views", "text", "words")
CLIP = "clips/clip"


@pytest.fixture(scope="module")
def cache():
    return frames_cache(*STAGES)


def data(cache, *settings, **options):
    method = ("method.name=gkc", "method.frames=2", "student=mask2former:shapes")
    config = load_config(
        None, [*method, *settings], cache=cache.address, batch_size=4, workers=0, **options
    )
    return C2SDataModule(config, cache)


def fake(clips, usable, block_rows, last):
    """A cache of blocks of so many rows, the last one of fewer."""
    blocks = -(-len(clips) // block_rows)
    manifest = SimpleNamespace(
        arrays={CLIP: None},
        dataset="d",
        blocks=blocks,
        block_range=lambda b: range(b * block_rows, min((b + 1) * block_rows, last)),
    )
    columns = {CLIP: np.array(clips), "rows/usable": np.array(usable, bool)}
    return SimpleNamespace(manifest=manifest, column=columns.__getitem__)


def test_clips_end_with_their_block_and_without_quarantined_frames():
    clips = [7, 7, 7, 5, 5, 5, 5, 9, 9, 9, 0, 0]
    usable = [1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0]
    assert clips_of(fake(clips, usable, 4, 10), 2) == ((2, 1), (3, 1), (2,))
    usable = [1] * 4 + [0] * 4 + [1] * 2 + [0] * 2
    assert clips_of(fake(clips, usable, 4, 10), 2) == ((3, 1), (), (2,))


def test_frames_that_cannot_go_together_are_refused(cache):
    with pytest.raises(CacheError, match="the frames of a clip lie apart in block 1 of"):
        clips_of(fake([1, 1, 1, 2, 1, 2], [1] * 6, 3, 6), 2)
    assert clips_of(fake([1, 1, 2, 2, 1, 1], [1] * 6, 4, 6), 2) == ((2, 2), (2,))
    with pytest.raises(
        CacheError, match=r"no clip of .* has 3 usable frames in one block .*: at most 2"
    ):
        clips_of(cache, 3)
    with pytest.raises(CacheError, match="at most 0"):
        clips_of(fake([1, 1], [0, 0], 2, 2), 2)


def test_a_cache_without_clips_says_what_to_do():
    plain = shapes.shapes_cache(closed(("labels", "segments", "views", "text", "words")))
    with pytest.raises(CacheError, match=r"lacks the stage clips, .*2 frames") as error:
        data(plain)
    assert (
        f"c2s cache build --dataset shapes --out {plain} --method gkc --update" in error.value.hint
    )


def test_batches_hold_whole_clips(cache):
    with pytest.raises(ConfigError, match=r"batch_size 4 counts frames, .* method.frames = 3"):
        data(cache, "method.frames=3")
    with pytest.raises(ConfigError, match=r"x method.frames = 8"):
        data(cache, "accumulate=4")


def test_frames_of_a_clip_show_the_same_part(cache):
    """One box, mirrored or not, and one distortion for both; another the next time. Fresh views only move them."""
    loaded = data(cache, "views=fresh", "jitter=true", "augment.ratio=[1.5, 2.0]")
    batches = list(loaded.stream(0, 6))
    drawn = set()
    for step, batch in enumerate(batches):
        refs = loaded.sequence.batch(step)
        assert batch.segments.shape == (2, 128, 64)
        for clip in range(2):
            first, second = 2 * clip, 2 * clip + 1
            assert refs[first].item + 1 == refs[second].item
            assert torch.equal(batch.jitter[first], batch.jitter[second])
            drawn.add(tuple(batch.jitter[first].tolist()))
            # What stands still is where it was: most of the ground.
            one, other = batch.segments[clip, :64], batch.segments[clip, 64:]
            assert float((one == other).float().mean()) > 0.6
            assert not torch.equal(one, other)
    assert len(drawn) == 12


def test_frames_of_several_cached_views_are_refused(cache, monkeypatch):
    monkeypatch.setattr(type(cache.manifest), "views", property(lambda _: 3))
    with pytest.raises(ConfigError, match="has 3 views of a row"):
        data(cache, "views=cached")
    assert data(cache, "views=fresh").sequence.frames == 2


def test_a_run_learns_from_the_clips(cache):
    m = cache.manifest
    assert "clips" in GKCConfig(frames=2).learns_from(m)
    assert "clips" not in GKCConfig().learns_from(m)


@pytest.mark.slow
def test_any_loader_gives_the_same_clips(cache):
    """Processes, micro-batches and a resumed run take what one alone would."""
    loaded = data(cache, "views=fresh", "jitter=true")
    want = [batch.segments for batch in loaded.stream(0, 4)]
    with_workers = loader(loaded.stream(0, 4), 2, False)
    assert all(torch.equal(a, b.segments) for a, b in zip(want, with_workers, strict=True))
    later = [batch.segments for batch in loaded.stream(2, 4)]
    assert all(torch.equal(a, b) for a, b in zip(want[2:], later, strict=True))
    ranks = [list(loaded.stream(0, 4, rank, 2)) for rank in range(2)]
    for whole, *parts in zip(want, *ranks, strict=True):
        assert torch.equal(whole, torch.cat([part.segments for part in parts]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # Lightning's hints
def test_a_run_on_clips_resumes_to_the_bit(cache, tmp_path):
    def parts():
        loaded = data(cache, "accumulate=2", iterations=4)
        return build_module(loaded.config, cache), loaded

    def trainer(steps):
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        return pl.Trainer(
            max_steps=steps,
            accelerator="cpu",
            default_root_dir=tmp_path,
            accumulate_grad_batches=2,
            **quiet,
        )

    whole, loaded = parts()
    trainer(4).fit(whole, loaded)
    cut, loaded = parts()
    first = trainer(3)
    first.fit(cut, loaded)
    first.save_checkpoint(tmp_path / "cut.ckpt")
    again, loaded = parts()
    trainer(4).fit(again, loaded, ckpt_path=tmp_path / "cut.ckpt", weights_only=True)
    one, two = whole.state_dict(), again.state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
