"""Clustering against a plain Lloyd iteration and scikit-learn; one contract for every backend."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from c2s_pipeline.clustering.kmeans import cluster, create_backend


def lloyd(tokens, seeds, iterations):
    """Plain Lloyd in float64, as scikit-learn defines it: clusters that run empty take, in their order,
    the tokens farthest from their centres. A cluster that loses its only token so lies on the biggest one,
    which is a tie: what wins it is nobody's definition.

    Returns labels, how near any decision came to a tie (relative), and how many clusters ran empty.
    """
    points, centres = tokens.astype(np.float64), seeds.astype(np.float64)
    first = ((points[:, None] - centres) ** 2).sum(2).argmin(1)
    centres, before, least, emptied = centres[np.unique(first)], None, np.inf, 0
    for _ in range(iterations + 1):
        squared = ((points[:, None] - centres) ** 2).sum(2)
        labels = squared.argmin(1)
        near = np.sort(squared, 1)
        if len(centres) > 1:
            least = min(least, ((near[:, 1] - near[:, 0]) / near[:, 1]).min())
        if before is not None and (labels == before).all():
            break
        before, owner = labels, labels.copy()
        empty = np.setdiff1d(np.arange(len(centres)), labels)
        if len(empty):
            order = np.argsort(-near[:, 0])
            away = near[order, 0]
            least = min(least, ((away[:-1] - away[1:])[: len(empty)] / away[0]).min())
            owner[order[: len(empty)]] = empty
            emptied += len(empty)
        biggest = np.bincount(owner).argmax()
        held = [i if (owner == i).any() else biggest for i in range(len(centres))]
        centres = np.stack([points[owner == i].mean(0) for i in held])
    return np.unique(labels, return_inverse=True)[1], least, emptied


@pytest.fixture(scope="module", params=["torch", "sklearn", "cuml"])
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
    [(labels, features)] = cluster([tokens], [seeds], 50, backend)
    expected, margin, _ = lloyd(tokens, seeds, 50)
    assume(
        margin > 3e-4
    )  # float32 distances are differences of squares hundreds of times their size
    np.testing.assert_array_equal(labels, expected)
    for i in range(labels.max() + 1):
        np.testing.assert_allclose(features[i], tokens[labels == i].mean(0), rtol=1e-4, atol=1e-5)


def test_seeds_that_win_nothing_are_dropped(backend):
    tokens = np.array([[0.0, 0], [0, 1]], np.float32)
    seeds = np.array([[100.0, 100], [0, 0.4], [50, 50], [0, 0.6]], np.float32)
    [(labels, features)] = cluster([tokens], [seeds], 10, backend)
    assert labels.tolist() == [0, 1]
    assert features.shape == (2, 2)


def test_more_seeds_than_tokens(backend):
    tokens = np.array([[1.0, 0]], np.float32)
    [(labels, _)] = cluster([tokens], [np.repeat(tokens / 9, 5, 0)], 10, backend)
    assert labels.tolist() == [0]


def test_no_images(backend):
    assert cluster([], [], 10, backend) == []


def scene(rng, dim, clusters=6, noise=0.7, side=14):
    """Tokens like those of a picture: areas of like content, some cells closed, seeds as window means."""
    y, x = np.mgrid[:side, :side]
    spots = rng.uniform(0, side, (clusters, 2))
    area = np.argmin([(y - a) ** 2 + (x - b) ** 2 for a, b in spots], 0)
    dense = rng.standard_normal((clusters, dim))[area] + 3 * rng.standard_normal(dim)
    dense = (dense + noise * rng.standard_normal((side, side, dim))).astype(np.float32)
    free = rng.random((side, side)) > rng.uniform(0, 0.95)
    free[0, 0] = True
    starts = range(0, side - 2, 2)
    seeds = [dense[t : t + 3, s : s + 3].mean((0, 1)) for t in starts for s in starts]
    return dense[free], np.stack(seeds)[: int(rng.integers(1, 37))]


@pytest.mark.parametrize(("dim", "noise"), [(8, 0.2), (128, 0.7), (512, 1.5)])
@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_a_batch_gets_the_labels_of_scikit_learn(dim, noise, iterations):
    """The same labels wherever plain float64 Lloyd never decides by less than one part in 100 000."""
    rng = np.random.default_rng([dim, iterations])
    tokens, seeds = zip(*(scene(rng, dim, noise=noise) for _ in range(40)), strict=True)
    ours = cluster(tokens, seeds, iterations, create_backend("torch"))
    theirs = cluster(tokens, seeds, iterations, create_backend("sklearn"))
    plain = [lloyd(t, s, iterations) for t, s in zip(tokens, seeds, strict=True)]
    clear = [margin > 1e-5 for _, margin, _ in plain]
    assert np.mean(clear) > 0.7
    if dim == 8 and iterations == 10:
        assert sum(emptied for (_, _, emptied), c in zip(plain, clear, strict=True) if c) > 2
    for judged, ours_i, theirs_i, (expected, _, _) in zip(clear, ours, theirs, plain, strict=True):
        if judged:
            np.testing.assert_array_equal(ours_i[0], expected)
            np.testing.assert_array_equal(theirs_i[0], expected)
            np.testing.assert_array_equal(ours_i[1], theirs_i[1])


def test_a_batch_is_its_images_one_by_one():
    rng = np.random.default_rng(2)
    tokens, seeds = zip(*(scene(rng, 32, noise=0.4) for _ in range(12)), strict=True)
    backend = create_backend("torch")
    batch = backend.fit(tokens, seeds, 10)
    for labels, t, s in zip(batch, tokens, seeds, strict=True):
        np.testing.assert_array_equal(labels, backend.fit([t], [s], 10)[0])


def test_two_runs_are_equal(backend):
    rng = np.random.default_rng(3)
    tokens = rng.standard_normal((196, 64)).astype(np.float32)
    batch = [tokens, tokens[:90]], [tokens[::5], tokens[::7]]
    runs = [cluster(*batch, 10, backend) for _ in range(3)]
    for run in runs[1:]:
        for (labels, means), (labels2, means2) in zip(run, runs[0], strict=True):
            np.testing.assert_array_equal(labels, labels2)
            assert means.tobytes() == means2.tobytes()
