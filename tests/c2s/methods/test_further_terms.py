"""What C2S may learn beside its paper, against loops: cells of grids as further regions, words in place of names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_cache import DIM, SIZE, tiny_manifest

from c2s.methods import Facts
from c2s.methods.clip_to_seg import ClipToSegBatch, ClipToSegConfig
from c2s.methods.clip_to_seg.examples import PATHS
from c2s.vocabulary import Vocabulary
from c2s_cache import ConfigError

SEEN = Vocabulary(tuple("abc"), np.eye(3, DIM, dtype=np.float32), ids=(0, 2, 3))
FACTS = Facts(SEEN, 6)
HALF = ClipToSegConfig(weights={"cell_distillation": 0.5}, dropout=0.0)


def with_cells(scales=(2, 3)):
    manifest = tiny_manifest()
    cells = manifest.stages[3].model_copy(
        update={"name": "cells", "settings": {"scales": list(scales)}, "arrays": {}}
    )
    return manifest.model_copy(update={"stages": (*manifest.stages, cells)})


def batch(images=2, **more):
    torch.manual_seed(2)
    return ClipToSegBatch(
        image=torch.zeros(images, 3, SIZE, SIZE, dtype=torch.uint8),
        pseudo=torch.randint(0, 8, (images, SIZE, SIZE)),
        global_cls=torch.randn(images, DIM),
        region_cls=torch.randn(images, 8, DIM),
        region_ids=torch.arange(8).expand(images, 8).clone(),
        **more,
    )


def plain(features, tokens, inside, scales, tau, among):
    """Sum over the cells of an image that are inside of -log softmax, then the mean over the images that have one."""
    unit = tokens / np.linalg.norm(tokens, axis=-1, keepdims=True)
    total, images = 0.0, 0
    for b, each in enumerate(features):
        terms, j = [], 0
        for scale in scales:
            side = each.shape[1] // scale
            for y in range(scale):
                for x in range(scale):
                    if inside[b, j]:
                        cell = each[:, y * side : (y + 1) * side, x * side : (x + 1) * side]
                        mean = cell.mean((1, 2)) / np.linalg.norm(cell.mean((1, 2)))
                        others = unit[b][inside[b]] if among == "image" else unit[inside]
                        scores = np.exp(others @ mean / tau)
                        terms.append(-np.log(np.exp(unit[b, j] @ mean / tau) / scores.sum()))
                    j += 1
        total, images = total + sum(terms), images + bool(terms)
    return total / images


@pytest.mark.parametrize("among", ["image", "batch"])
def test_cells_are_further_regions(among):
    scales, count = (2, 3), 13
    features, tokens = torch.randn(3, DIM, 12, 12), torch.randn(3, count, DIM)
    half = torch.tensor([[0, 0, SIZE, SIZE], [0, 0, SIZE, SIZE // 2], [0, 0, SIZE, SIZE]])
    inside = np.ones((3, count), bool)
    inside[1] = [True, False] * 2 + [True, False, False] * 3
    for extent, kept in ((None, np.ones((3, count), bool)), (half, inside)):
        given = batch(3, cells=tokens, scales=scales, extent=extent)
        method = HALF.model_copy(update={"local_negatives": among}).build(FACTS).eval()
        losses = method.losses(features, given)
        want = plain(features.numpy(), tokens.numpy(), kept, scales, HALF.tau, among)
        assert losses["cells"].item() == pytest.approx(want, rel=1e-4)
        others = sum(losses[name] for name in ("global", "local", "pixel"))
        torch.testing.assert_close(losses["loss"], others + 0.5 * losses["cells"])
    assert "cells" not in ClipToSegConfig(dropout=0.0).build(FACTS).eval().losses(features, given)


def test_cells_are_read_where_they_weigh():
    manifest = with_cells()
    assert ClipToSegConfig().examples(manifest).paths == PATHS
    every = HALF.examples(manifest)
    assert (every.paths, every.scales, every.cells) == (PATHS | {"cells/cls"}, (2, 3), [*range(13)])
    assert "cells/cls" in every.teacher_paths
    three = HALF.model_copy(update={"cell_scales": (3,)}).examples(manifest)
    assert (three.scales, three.cells) == ((3,), [*range(4, 13)])
    with pytest.raises(ConfigError, match=r"method.cell_scales: .* grids \[2, 3\], not of \[4\]"):
        HALF.model_copy(update={"cell_scales": (4,)}).examples(manifest)
    assert HALF.read_stages()[-1] == "cells"
    assert "cells" not in ClipToSegConfig().read_stages()


def worded():
    """Classes with one, two and three words; all of unit norm."""
    rows = torch.nn.functional.normalize(torch.randn(6, DIM), dim=1).numpy()
    rows[[0, 1, 3]] = SEEN.embeddings
    names = (("a",), ("b", "b1"), ("c", "c1", "c2"))
    return Vocabulary(tuple("abc"), rows, names=names, ids=(0, 2, 3))


def test_words_are_drawn_for_the_classes_whose_region_an_image_has():
    torch.manual_seed(0)
    words = worded()
    config = ClipToSegConfig(text_diversification=True, dropout=0.0)
    method = config.build(replace(FACTS, words=words, logit_scale=5.0))
    rows = torch.from_numpy(words.embeddings)
    given = batch(2)
    given.region_ids[1, :4] = torch.tensor([3, -1, 6, 0])  # of the second image no class 2
    drawn = {2: set(), 3: set()}
    for _ in range(200):
        text = method._text(given)
        assert text.shape == (2, 3, DIM)
        assert torch.equal(text[:, 0], rows[[0, 0]])
        assert torch.equal(text[1, 1], rows[1])  # the name, where there is no region to go by
        for place, (first, last) in {1: (1, 3), 2: (3, 6)}.items():
            (which,) = (text[0, place] == rows[first:last]).all(1).nonzero(as_tuple=True)
            drawn[place + 1].add(int(which))
    suits = {}
    for place, (first, last) in {1: (1, 3), 2: (3, 6)}.items():
        token = torch.nn.functional.normalize(given.region_cls[0, place + 1], dim=0)
        scores = (5.0 * rows[first:last] @ token).softmax(0)
        suits[place + 1] = {i for i, score in enumerate(scores) if score > 0.1}
    assert drawn == suits
    assert any(len(found) > 1 for found in suits.values())


def test_without_them_the_text_is_the_names():
    method = ClipToSegConfig(dropout=0.0).build(FACTS)
    assert torch.equal(method._text(batch()), torch.from_numpy(SEEN.embeddings)[None])
    assert "words" not in ClipToSegConfig().read_stages()
    assert "words" in ClipToSegConfig(text_diversification=True).read_stages()
