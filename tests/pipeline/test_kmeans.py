"""Clustering against a plain Lloyd iteration; one contract for every backend."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from c2s_pipeline.kmeans import cluster, create_backend


def lloyd(tokens, seeds, iterations):
    """Plain loops; clusters that win no token are dropped at once."""
    centres = [np.array(s, np.float64) for s in seeds]
    labels = None
    for _ in range(iterations + 1):
        new = np.array([np.argmin([((t - c) ** 2).sum() for c in centres]) for t in tokens])
        used = np.unique(new)
        new = np.searchsorted(used, new)
        if labels is not None and len(used) == len(centres) and (new == labels).all():
            break
        labels = new
        centres = [tokens[labels == i].mean(0) for i in range(len(used))]
    return labels


@pytest.fixture(scope="module", params=["sklearn", "cuml"])
def backend(request):
    if request.param == "cuml":
        pytest.importorskip("cuml", reason="needs c2s[gpu] and a CUDA device")
    return create_backend(request.param)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 12))
def test_labels_equal_plain_lloyd(backend, seed, n, k):
    rng = np.random.default_rng(seed)
    middles = rng.standard_normal((4, 6)) * 6
    tokens = (middles[rng.integers(0, 4, n)] + rng.standard_normal((n, 6)) * 0.3).astype(np.float32)
    seeds = tokens[rng.permutation(n)[: min(k, n)]] + np.float32(0.01)
    labels, features = cluster(tokens, seeds, 50, backend)
    np.testing.assert_array_equal(labels, lloyd(tokens.astype(np.float64), seeds, 50))
    for i in range(labels.max() + 1):
        np.testing.assert_allclose(features[i], tokens[labels == i].mean(0), rtol=1e-4, atol=1e-5)


def test_seeds_that_win_nothing_are_dropped(backend):
    tokens = np.array([[0.0, 0], [0, 1]], np.float32)
    seeds = np.array([[100.0, 100], [0, 0.4], [50, 50], [0, 0.6]], np.float32)
    labels, features = cluster(tokens, seeds, 10, backend)
    assert labels.tolist() == [0, 1]
    assert features.shape == (2, 2)


def test_more_seeds_than_tokens(backend):
    tokens = np.array([[1.0, 0]], np.float32)
    labels, _ = cluster(tokens, np.repeat(tokens / 9, 5, 0), 10, backend)
    assert labels.tolist() == [0]


def test_two_runs_are_equal(backend):
    rng = np.random.default_rng(3)
    tokens = rng.standard_normal((196, 64)).astype(np.float32)
    runs = [cluster(tokens, tokens[::5], 10, backend) for _ in range(3)]
    for labels, features in runs[1:]:
        np.testing.assert_array_equal(labels, runs[0][0])
        assert features.tobytes() == runs[0][1].tobytes()
