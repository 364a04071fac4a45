"""Latent grids: closed cells stay closed, ids are dense, distinct areas come apart."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from c2s_pipeline.clustering.kmeans import create_backend
from c2s_pipeline.clustering.latent import ClusterSettings, latent_grids

BACKEND = create_backend("torch")


def latent_grid(dense, closed, config, backend):
    return latent_grids(dense[None], closed[None], config, backend)[0]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.floats(0, 1), st.floats(0.2, 1), st.booleans())
def test_ids_are_dense_and_closed_cells_stay_closed(seed, share, threshold, unit_norm):
    rng = np.random.default_rng(seed)
    dense = rng.standard_normal((8, 8, 16)).astype(np.float32)
    closed = rng.random((8, 8)) < share
    config = ClusterSettings(threshold=threshold, unit_norm=unit_norm)
    grid = latent_grid(dense, closed, config, BACKEND)
    assert (grid[closed] == 255).all()
    ids = np.unique(grid[~closed])
    np.testing.assert_array_equal(ids, np.arange(len(ids)))


@pytest.mark.parametrize("literal", [False, True])
def test_two_areas_of_different_content_come_apart(literal):
    rng = np.random.default_rng(0)
    dense = np.empty((8, 8, 4), np.float32)
    dense[:, :4], dense[:, 4:] = [4, 0, 0, 0], [0, 4, 0, 0]
    dense += 0.05 * rng.standard_normal(dense.shape).astype(np.float32)
    grid = latent_grid(dense, np.zeros((8, 8), bool), ClusterSettings(literal=literal), BACKEND)
    left, right = set(grid[:, :4].ravel()) - {255}, set(grid[:, 4:].ravel()) - {255}
    assert not left & right
    if not literal:
        assert (len(left), len(right)) == (1, 1)


def test_a_batch_is_its_views_one_by_one():
    rng = np.random.default_rng(1)
    dense = rng.standard_normal((3, 8, 8, 8)).astype(np.float32)
    closed = rng.random((3, 8, 8)) < 0.4
    batch = latent_grids(dense, closed, ClusterSettings(), BACKEND)
    for i in range(3):
        np.testing.assert_array_equal(
            batch[i], latent_grid(dense[i], closed[i], ClusterSettings(), BACKEND)
        )
