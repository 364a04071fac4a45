"""The error card of a dense tier against plain sums."""

import numpy as np
import pytest

from c2s_pipeline.clustering.quantisation import QuantisationError
from c2s_pipeline.stages.dense import decoded, dense_tier


def tokens(seed=0):
    rng = np.random.default_rng(seed)
    areas = rng.standard_normal((3, 32))[np.arange(64).reshape(8, 8) // 24]
    return (areas + 0.3 * rng.standard_normal((5, 8, 8, 32))).astype(np.float32)


@pytest.mark.parametrize("tier", ["int8", "float16"])
def test_cosines_are_those_of_the_stored_tokens(tier):
    exact = tokens()
    stored = decoded(dense_tier(exact, tier))
    card = QuantisationError.of(exact[:2], stored[:2]) + QuantisationError.of(exact[2:], stored[2:])
    a, b = exact.reshape(-1, 32).astype(np.float64), stored.reshape(-1, 32).astype(np.float64)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    notes = (QuantisationError() + card).notes()
    assert notes["tokens"] == len(a)
    assert notes["cosine_sum"] / len(a) == pytest.approx(cosine.mean(), abs=1e-7)
    assert notes["cosine_min"] == pytest.approx(cosine.min(), abs=1e-7)
    assert cosine.min() > 0.9995
    assert notes["clustered"] == 2 * 64  # of each batch its first view
    assert 0.95 * notes["clustered"] < notes["agreeing"] <= notes["clustered"]


def test_equal_tokens_agree_wholly_and_others_do_not():
    same = QuantisationError.of(tokens(), tokens())
    other = QuantisationError.of(tokens(), tokens(1)[:, ::-1, ::-1])
    assert same.notes()["agreeing"] == same.notes()["clustered"] == 64
    assert same.notes()["cosine_min"] == pytest.approx(1)
    assert other.notes()["agreeing"] < other.notes()["clustered"]
    assert other.notes()["cosine_min"] < 0.5
