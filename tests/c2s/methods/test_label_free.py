"""C2S of a cache without labels and class names: every region is latent, and it trains."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as functional

from c2s.methods import Facts, KnownClasses
from c2s.methods.clip_to_seg import ClipToSegBatch, ClipToSegConfig, ClipToSegExamples
from c2s.methods.clip_to_seg.examples import IGNORED
from c2s.methods.examples import LABELS, cut_view
from c2s_cache import open_cache
from c2s_cache.block import Sample
from c2s_cache.pseudo_mask import nearest_latent

D, S = 16, 8
NONE = Facts(KnownClasses(torch.zeros(0, dtype=torch.int64), torch.zeros(0, D), 0))


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
        {"latent": False},
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
    assert (losses["pixel"].item() == 0) == (settings == {"latent": False})


def test_the_pixel_loss_tells_the_latent_regions_of_an_image_from_each_other():
    config = ClipToSegConfig(generator="prototype", global_=False, local=False, beta=3.0)
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
