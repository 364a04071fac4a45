"""C2S of a cache without labels and class names: every region is latent, and it trains."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_runs
import torch
import torch.nn.functional as functional

from c2s.methods import Facts
from c2s.methods.clip_to_seg import ClipToSegBatch, ClipToSegConfig, ClipToSegExamples
from c2s.methods.clip_to_seg.examples import IGNORED
from c2s.methods.examples import LABELS, cut_view
from c2s.runs.run import open_run
from c2s.training import run
from c2s.training.logs import read_metrics
from c2s.training.self_training import inherited
from c2s.vocabulary import Vocabulary
from c2s_cache import open_cache
from c2s_cache.block import Sample
from c2s_cache.errors import ConfigError
from c2s_cache.pseudo_mask import nearest_latent
from c2s_cache.writer import BlockWriter, create_cache

D, S = 16, 8
NONE = Facts(Vocabulary((), np.zeros((0, D), np.float32)), 0)


def batch():
    """One image of two regions, one of a third region and padding, one of padding alone."""
    pseudo = torch.full((3, S, S), -1)
    pseudo[0, :3], pseudo[0, 3:], pseudo[1, :4] = 0, 1, 2
    ids = torch.tensor([[0, 1], [2, -1], [-1, -1]])
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(3, 2, D, generator=generator) * (ids >= 0)[..., None]
    return ClipToSegBatch(
        image=torch.zeros(3, 3, S, S, dtype=torch.uint8),
        pseudo=pseudo,
        global_cls=torch.randn(3, D, generator=generator),
        region_cls=tokens,
        region_ids=ids,
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"supervision": "features", "generator": "cls"},
        {"local_negatives": "batch", "local_targets": "teacher", "local_reduction": "mean"},
        {"latent_embedding": False},
    ],
)
def test_without_any_class_its_losses_are_finite_and_fall(settings):
    torch.manual_seed(0)
    method = ClipToSegConfig(dropout=0, bank_size=0, **settings).build(NONE)
    features = torch.randn(3, D, 4, 4, requires_grad=True)
    optimizer = torch.optim.Adam([features, *method.parameters()], lr=0.05)
    found = []
    for _ in range(20):
        optimizer.zero_grad()
        losses = method.losses(features, batch())
        losses["loss"].backward()
        assert features.grad.isfinite().all()
        optimizer.step()
        found.append(losses["loss"].item())
    assert found[-1] < found[0]
    assert (losses["pixel"].item() == 0) == (settings == {"latent_embedding": False})


def test_the_pixel_loss_tells_the_latent_regions_of_an_image_from_each_other():
    config = ClipToSegConfig(
        generator="prototype", global_distillation=False, local_distillation=False, beta=3.0
    )
    features, given = torch.randn(3, D, S, S), batch()
    got = config.build(NONE).losses(features, given)["ce"]
    costs = []
    for b, regions in ((0, (0, 1)), (1, (2,))):
        cells = features[b].flatten(1)
        places = [(given.pseudo[b] == u).flatten() for u in regions]
        prototypes = torch.stack([cells[:, place].mean(1) for place in places])
        cosines = functional.normalize(prototypes, dim=1) @ functional.normalize(cells, dim=0)
        logs = (3 * cosines).log_softmax(0)
        costs += [-logs[i, place] for i, place in enumerate(places)]
    torch.testing.assert_close(got, torch.cat(costs).mean())


def test_a_view_without_labels_has_its_clusters_as_pseudo_mask(tiny_cache):
    examples = ClipToSegExamples(0, labelled=False)
    assert not examples.paths & {LABELS, IGNORED}
    cache = open_cache(tiny_cache)
    sample = cache.read_block(0, examples.paths).sample(0)
    assert isinstance(sample, Sample)
    view = cut_view(sample, 32)
    made = examples.example(view, sample.arrays)
    want = nearest_latent(sample["masks/grid"]).repeat(8, 0).repeat(8, 1).astype(int)
    want[~view.crop.inside] = -1
    assert np.array_equal(made.pseudo, want)
    assert len(np.unique(want)) > 2


def label_free(tiny_cache, path, names):
    """The tiny cache without its labels: its regions are those of the grid; of no classes, or of unseen ones alone."""
    held, stages, gone = open_cache(tiny_cache), [], {"labels"} if names else {"labels", "text"}
    for stage in held.manifest.stages:
        if stage.name not in gone:
            upstream = tuple(name for name in stage.upstream if name not in gone)
            stages.append(stage.model_copy(update={"upstream": upstream}))
    classes = held.manifest.classes if names else ()
    update = {"classes": classes, "unseen": tuple(range(len(classes))), "stages": tuple(stages)}
    manifest = held.manifest.model_copy(update=update)
    create_cache(path, manifest)
    writer, rng = BlockWriter(path), np.random.default_rng(0)
    if names:
        text = {path: held.once(path) for path in manifest.stage("text").arrays}
        writer.write("text", 0, text)
    for block in range(manifest.blocks):
        for stage in stages:
            if stage.name not in ("regions", "text"):
                notes = next(r.notes for r in held.receipts_of(stage.name) if r.block == block)
                writer.write(stage.name, block, held.read(block, stage.arrays), notes)
        ids = [np.unique(g[g != 255]) for g in held.read(block, ["masks/grid"])["masks/grid"]]
        every = np.concatenate(ids) + len(classes)
        regions = {
            "regions/id": every,
            "regions/cls": rng.normal(size=(len(every), manifest.teacher.dim)),
            "regions/end": np.cumsum([len(i) for i in ids])[:, None],
        }
        writer.write("regions", block, regions)
    return path


@pytest.fixture
def label_free_cache(tiny_cache, tmp_path):
    return label_free(tiny_cache, tmp_path / "photos.zarr", names=False)


def test_a_cache_of_photos_alone_trains_a_student(label_free_cache, tmp_path):
    config = tiny_runs.settings(
        label_free_cache, tmp_path, student="shapes-net", iterations=6, method={"heads": 4}
    )
    path = run.train(config)
    records = read_metrics(path)
    assert all(np.isfinite(list(record.values())).all() for record in records)
    assert records[-1]["pixel"] > 0
    opened = open_run(path)
    assert (opened.info.classes, opened.embeddings.shape) == ((), (0, 16))


def test_self_training_without_label_maps_takes_every_pixel_of_the_image_for_unseen(
    tiny_cache, tmp_path
):
    """All classes are unseen, so that a pixel's label is what the running model calls it, and padding has none."""
    cache = label_free(tiny_cache, tmp_path / "named.zarr", names=True)
    first = tiny_runs.settings(
        cache, tmp_path, student="shapes-net", iterations=4, method={"heads": 4}, name="first"
    )
    path = run.train(first)
    examples = first.method.examples(open_cache(cache).manifest, transductive=True)
    assert not examples.paths & {LABELS, IGNORED}
    sample = open_cache(cache).read_block(0, examples.paths).sample(0)
    assert isinstance(sample, Sample)
    made = examples.example(view := cut_view(sample, 32), sample.arrays)
    assert made.unseen is not None
    assert np.array_equal(made.unseen, view.crop.inside)
    second = run.train(
        tiny_runs.settings(cache, tmp_path, inherited(path), self_train=path, student="shapes-net")
    )
    records = read_metrics(second)
    assert len(records) == 2
    assert all(record["pixel"] > 0 for record in records)


def test_photos_without_class_names_have_nothing_to_train_themselves_on(label_free_cache, tmp_path):
    path = run.train(
        tiny_runs.settings(
            label_free_cache, tmp_path, student="shapes-net", iterations=2, method={"heads": 4}
        )
    )
    with pytest.raises(ConfigError, match=r"has no unseen class to train on by itself"):
        run.train(
            tiny_runs.settings(
                label_free_cache, tmp_path, inherited(path), self_train=path, student="shapes-net"
            )
        )
