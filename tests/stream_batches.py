"""Streams of batches from tiny caches."""

from __future__ import annotations

import pytest
import torch

from c2s.methods.clip_to_seg import ClipToSegExamples
from c2s.training.sampler import BatchSequence
from c2s.training.stream import BatchStream, block_sizes, loader
from c2s_cache import open_cache

EXAMPLES = ClipToSegExamples(6)


@pytest.fixture(params=[1, 3], ids=lambda n: f"views{n}")
def cache(request, tiny_cache, tiny_views_cache):
    """The tiny cache with one view per row, and with three."""
    return open_cache(tiny_cache if request.param == 1 else tiny_views_cache)


def batches(cache, workers=0, start=0, stop=5, jitter=True, part=(0, 1)):
    stream = BatchStream(str(cache.path), sequence(cache), EXAMPLES, start, stop, 32, jitter, *part)
    return list(loader(stream, workers, False))


def equal(a, b):
    assert vars(a).keys() == vars(b).keys()
    assert a.max_id == b.max_id
    tensors = ((k, v) for k, v in vars(a).items() if isinstance(v, torch.Tensor))
    return all(torch.equal(v, getattr(b, k)) for k, v in tensors)


def sequence(cache):
    return BatchSequence(
        block_sizes(cache), 4, seed=1, shuffle_blocks=2, views=cache.manifest.views
    )
