"""Classes that have one text embedding."""

from __future__ import annotations

import numpy as np
import pytest

from c2s_cache.errors import ConfigError
from c2s_cache.text_rows import require_told_apart


def unit(count: int, width: int = 64) -> np.ndarray:
    rows = np.random.default_rng(1).standard_normal((count, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_the_two_names_are_said():
    rows, names = unit(500), [f"n{i}" for i in range(500)]
    require_told_apart(names, rows, range(500), "here")
    rows[400] = rows[20] + 1e-7
    with pytest.raises(ConfigError, match=r"here: the text tower cannot tell 'n20' from 'n400'"):
        require_told_apart(names, rows, range(500), "here")


def test_names_of_one_class_may_be_alike():
    rows = unit(3)[[0, 0, 1]]
    require_told_apart(["a", "A", "b"], rows, [0, 0, 1], "here")
    with pytest.raises(ConfigError, match="'a' from 'A'"):
        require_told_apart(["a", "A", "b"], rows, [0, 1, 2], "here")


def test_names_that_are_merely_near_are_told_apart():
    rows = unit(2)
    rows[1] = rows[0] + 1e-4 * rows[1]
    require_told_apart(["a", "b"], rows, [0, 1], "here")
    require_told_apart([], np.zeros((0, 4)), [], "here")
