"""Rounding of the dense tiers stays within what their arithmetic allows."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from c2s_pipeline.stages.dense import decoded, dense_tier

SMALLEST = 2.0**-24
"""Distance between neighbours of float16 near zero."""
tokens = arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.just(2), st.just(2), st.integers(1, 9)),
    elements=st.floats(-6e4, 6e4, width=32),
)


@given(exact=tokens)
def test_float16_is_off_by_half_a_step(exact):
    error = np.abs(decoded(dense_tier(exact, "float16")) - exact)
    assert (error <= np.abs(exact) * 2.0**-11 + SMALLEST / 2).all()


@given(exact=tokens)
def test_int8_is_off_by_half_a_step_of_its_scale_or_by_the_rounding_of_the_scale(exact):
    tier = dense_tier(exact, "int8")
    scale = tier["dense/scale"].astype(np.float64)
    wanted = np.abs(exact).max(-1).astype(np.float64) / 127
    assert (
        np.abs(scale - wanted) <= np.maximum(wanted * 2.0**-11, SMALLEST / 2) * (1 + 1e-6)
    ).all()
    assert tier["dense/tokens"].min() >= -127
    # Where the scale was rounded down, the largest value is clipped.
    bound = np.maximum(scale / 2, 127 * (wanted - scale))
    error = np.abs(decoded(tier) - exact.astype(np.float64)).max(-1)
    assert (error <= bound * (1 + 1e-5) + 1e-30).all()
