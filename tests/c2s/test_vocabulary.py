"""A vocabulary: classes, their names, embeddings, and which were annotated."""

from __future__ import annotations

import numpy as np
import pytest

from c2s.vocabulary import Vocabulary, unit_norm
from c2s_cache.errors import ConfigError


def test_a_class_is_named_by_itself_unless_it_has_other_names():
    plain = Vocabulary(("a", "b", "c"), np.eye(3, dtype=np.float32), (1,))
    assert (plain.names, plain.counts) == ((("a",), ("b",), ("c",)), (1, 1, 1))
    assert (plain.seen, plain.unseen) == ((0, 2), (1,))
    assert plain.averaged() is plain


def test_several_names_become_one_embedding_of_unit_norm_between_them():
    rows = np.array([[1, 0], [0, 1], [0, -1]], np.float32)
    words = Vocabulary(("cat", "sofa"), rows, names=(("cat", "kitten"), ("sofa",)))
    mean = words.averaged()
    np.testing.assert_allclose(mean.embeddings, [[0.5**0.5, 0.5**0.5], [0, -1]], atol=1e-7)
    assert mean.embeddings.dtype == np.float32
    assert (mean.classes, mean.counts) == (words.classes, (1, 1))
    opposed = Vocabulary(("x",), rows[1:], names=(("up", "down"),))
    with pytest.raises(ConfigError, match="zero or not finite"):
        opposed.averaged()


def test_embeddings_are_brought_to_unit_norm():
    np.testing.assert_allclose(unit_norm(np.array([[3.0, 4.0]])), [[0.6, 0.8]], atol=1e-7)
