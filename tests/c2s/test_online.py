"""CLIP in the training loop against the cache it wrote: the same views must give the same losses."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from c2s.datasets import load_dataset
from c2s.methods.base import Facts
from c2s.methods.clip_to_seg import ClipToSegConfig
from c2s.methods.clip_to_seg.examples import DENSE, PATHS, TAUGHT
from c2s.online import load_online_teacher
from c2s.runs.config import load_config
from c2s.shapes.defaults import BUILD, TRAIN
from c2s.students import create
from c2s.text import cached_text
from c2s.training import run
from c2s.training.logs import read_metrics
from c2s.training.module import DistillationModule
from c2s.training.sampler import BatchSequence
from c2s.training.stream import BatchStream, block_sizes
from c2s_cache import open_cache
from c2s_cache.errors import C2SError

STEPS = 60


@pytest.fixture(scope="module")
def cache(scheduler, tmp_path_factory):
    """32 Shapes scenes in three random views each, by the bundled teacher."""
    from c2s_pipeline.build.builder import build
    from c2s_pipeline.build.request import build_request

    out = tmp_path_factory.mktemp("online") / "shapes.zarr"
    request = build_request(
        **{**BUILD, "views": {"count": 3}, "limit": 32, "block_rows": 16, "batch_size": 16}
    )
    build(load_dataset("shapes").split("train"), request, out, scheduler=scheduler)
    return out


def config(cache, folder, **more):
    options = {"iterations": STEPS, "batch_size": 8, "warmup": 5, "log_every": 1, "jitter": True}
    defaults = {**TRAIN, **options, "cache": cache, "runs": folder}
    return load_config(defaults=defaults, **more)


def replays(cache, steps=12):
    """Views as an online teacher is shown them, each with what the cache holds of it."""
    sequence = BatchSequence(block_sizes(cache), 8, shuffle_blocks=2, views=cache.manifest.views)
    paths = PATHS | (DENSE & cache.manifest.arrays.keys())
    blocks = [cache.read_block(number, paths) for number in range(cache.blocks)]
    examples = ClipToSegConfig().examples(cache.manifest)
    stream = BatchStream(
        cache.path, sequence, examples, 0, steps, 64, True, looks=((64, "bicubic"),)
    )
    for step, views in enumerate(stream):
        stored = [blocks[r.block].sample(r.item, r.view) for r in sequence.batch(step)]
        yield views, stored


@pytest.mark.slow
def test_the_teacher_says_online_what_it_said_to_the_cache(cache, tmp_path):
    opened = open_cache(cache)
    weights = {"method": {"weights": {"dense_distillation": 1}}}
    teacher = load_online_teacher(config(cache, tmp_path, **weights), opened.manifest)
    assert load_online_teacher(config(cache, tmp_path), opened.manifest).paths == sorted(TAUGHT)
    assert teacher.looks == ((64, "bicubic"),)
    flips, padded, regions = 0, 0, 0
    for views, stored in replays(opened):
        for view, said, s in zip(views, teacher.answer(views), stored, strict=True):
            assert view.sample.row == s.row
            assert set(said) == TAUGHT | {"dense/tokens"}
            for path in ("masks/grid", "regions/id"):
                np.testing.assert_array_equal(said[path], s[path])
            for path in ("global_cls/cls", "regions/cls", "dense/tokens"):
                np.testing.assert_allclose(said[path], s[path], rtol=1e-3, atol=1e-3)
            flips += s["views/flip"]
            padded += not view.crop.inside.all()
            regions += len(s["regions/id"])
    assert min(flips, padded, regions) > 10


@pytest.mark.slow
def test_cached_and_online_views_give_the_same_losses(cache, tmp_path):
    """Along one training run, so that the weights are the same on both sides at every step."""
    opened, settings = open_cache(cache), config(cache, tmp_path)
    teacher = load_online_teacher(settings, opened.manifest)
    examples = settings.method.examples(opened.manifest)
    torch.manual_seed(0)
    facts = Facts(cached_text(opened, "seen"), len(opened.manifest.classes))
    module = DistillationModule(
        create("shapes-net", opened.manifest.teacher.dim),
        settings.method.build(facts),
        settings,
    )
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    worst = {}
    for step, (views, stored) in enumerate(replays(opened, STEPS)):
        told, held = teacher.answer(views), (s.arrays for s in stored)
        online, cached = (
            examples.collate([examples.example(v, a) for v, a in zip(views, answers, strict=True)])
            for answers in (told, held)
        )
        torch.manual_seed(step)  # of the dropout
        theirs = copy.deepcopy(module).training_step(online, step)
        torch.manual_seed(step)
        ours = module.training_step(cached, step)
        for key, value in ours.items():
            one, other = float(value.detach()), float(theirs[key].detach())
            gap = abs(one - other) / max(abs(one), 1e-3)
            worst[key] = max(worst.get(key, 0.0), gap)
        optimizer.zero_grad()
        ours["loss"].backward()
        optimizer.step()
    assert step == STEPS - 1
    assert {"global", "local", "focal", "dice", "ce", "loss"} <= worst.keys()
    assert max(worst.values()) < 1e-3, worst


def test_other_weights_are_refused(cache, tmp_path, tiny_teacher):
    manifest = open_cache(cache).manifest
    asked = config(cache, tmp_path, teacher="online", teacher_weights=tiny_teacher)
    with pytest.raises(C2SError, match=r"has the digest .*what was found as .*--teacher-weights"):
        load_online_teacher(asked, manifest)
    named = manifest.teacher.model_copy(update={"name": "local-dir:elsewhere"})
    moved = manifest.model_copy(update={"teacher": named})
    with pytest.raises(C2SError, match=r"elsewhere.*cannot be loaded.*--teacher-weights"):
        load_online_teacher(config(cache, tmp_path), moved)


def test_a_run_of_fresh_views_trains(cache, tmp_path):
    settings = {"teacher": "online", "views": "fresh", "iterations": 2, "name": "fresh"}
    path = run.train(config(cache, tmp_path, **settings), load_teacher=load_online_teacher)
    assert [np.isfinite(r["loss"]) for r in read_metrics(path)] == [True, True]
