"""Pseudo masks against plain loops."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from c2s_cache.pseudo_mask import nearest_latent, pseudo_mask


@given(st.integers(0, 9999), st.integers(1, 5), st.integers(1, 5), st.floats(0, 1), st.booleans())
def test_equals_plain_loops(seed, h, w, share, padded):
    rng = np.random.default_rng(seed)
    grid = rng.integers(0, 4, (h, w), dtype=np.uint8)
    grid[rng.random((h, w)) < share] = 255
    size = 15
    labels = rng.choice(np.array([0, 5, 255], np.uint8), (size, size))
    inside = rng.random((size, size)) < 0.7 if padded else np.ones((size, size), bool)
    got = pseudo_mask(labels, grid, 10, inside if padded else None)
    cells = [(y, x) for y in range(h) for x in range(w) if grid[y, x] != 255]
    for y in range(size):
        for x in range(size):
            cell = (y * h // size, x * w // size)
            if labels[y, x] != 255:
                want = labels[y, x]
            elif not inside[y, x] or not cells:
                want = -1
            else:
                near = min(cells, key=lambda c: (c[0] - cell[0]) ** 2 + (c[1] - cell[1]) ** 2)
                want = 10 + grid[near]
            assert got[y, x] == want


def test_known_cells_keep_their_class():
    grid = np.array([[0, 255], [255, 2]], np.uint8)
    assert nearest_latent(grid).tolist() == [[0, 0], [0, 2]]
    empty = np.full((2, 2), 255, np.uint8)
    assert (nearest_latent(empty) == 255).all()


def test_latent_ids_pass_the_range_of_a_byte():
    labels = np.full((4, 4), 255, np.uint8)
    got = pseudo_mask(labels, np.full((2, 2), 254, np.uint8), 171)
    assert got.dtype == np.int16
    assert (got == 171 + 254).all()
