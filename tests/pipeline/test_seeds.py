"""Eq. 2 against plain loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from c2s_pipeline.clustering.seeds import annotated_cells, initial_seeds, window_positions


def test_window_positions_follow_the_printed_series():
    assert window_positions(3, 14) == (0, 2, 3, 5, 6, 8, 9, 11)
    assert window_positions(7, 14) == (0, 4, 7)
    assert window_positions(7, 8) == (0,)
    assert window_positions(9, 8) == ()


def test_flush_windows_reach_the_far_edge_and_change_nothing_that_does():
    assert window_positions(3, 16) == (0, 2, 3, 5, 6, 8, 9, 11, 12)
    assert window_positions(3, 16, flush=True) == (0, 2, 3, 5, 6, 8, 9, 11, 12, 13)
    assert window_positions(7, 16, flush=True) == (0, 4, 7, 9)
    for window, length in ((3, 14), (7, 14), (9, 8)):
        assert window_positions(window, length, flush=True) == window_positions(window, length)


def test_printed_windows_leave_the_far_edge_of_16_cells_out():
    dense = np.zeros((16, 16, 1), np.float32)
    dense[15] = dense[:, 15] = 1
    free = np.zeros((16, 16), bool)
    assert not initial_seeds(dense, free, (3, 7)).any()
    assert initial_seeds(dense, free, (3, 7), flush=True).any()


def reference(dense, annotated, windows):
    seeds = []
    h, w, d = dense.shape
    for k in windows:
        for top in window_positions(k, h):
            for left in window_positions(k, w):
                total, free = np.zeros(d), 0
                for u in range(top, top + k):
                    for v in range(left, left + k):
                        if not annotated[u, v]:
                            total += dense[u, v] / k**2
                            free += 1
                if free:
                    seeds.append(total)
    return np.array(seeds).reshape(-1, d)


@given(st.integers(0, 10_000), st.integers(3, 9), st.integers(3, 9), st.floats(0, 1))
def test_seeds_equal_plain_loops(seed, h, w, share):
    rng = np.random.default_rng(seed)
    dense = rng.standard_normal((h, w, 5)).astype(np.float32)
    annotated = rng.random((h, w)) < share
    got = initial_seeds(dense, annotated, (3, 7))
    want = reference(dense.astype(np.float64), annotated, (3, 7))
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_fully_annotated_grid_has_no_seed():
    assert initial_seeds(np.ones((4, 4, 3), np.float32), np.ones((4, 4), bool), (3,)).shape == (
        0,
        3,
    )


@pytest.mark.parametrize(("free", "closed"), [(31, True), (32, True), (33, False)])
def test_a_cell_is_closed_when_half_of_it_is_annotated(free, closed):
    labels = np.zeros((8, 8), np.uint8)
    labels.reshape(-1)[:free] = 255
    got = annotated_cells(labels, np.ones((8, 8), bool), (1, 1))
    assert got.tolist() == [[closed]]


def test_padding_is_never_clustered():
    labels = np.full((8, 8), 255, np.uint8)
    inside = np.zeros((8, 8), bool)
    inside[:, :4] = True
    assert annotated_cells(labels, inside, (2, 2)).tolist() == [[False, True], [False, True]]
