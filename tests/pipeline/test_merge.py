"""Algorithm 1, default and literal reading, against a plain transcription."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from c2s_pipeline.clustering.merge import merge_clusters


def transcription(features, threshold, literal):
    k = len(features)
    unit = [f / np.linalg.norm(f) for f in features.astype(np.float64)]
    g = {
        (i, j): float(unit[i] @ unit[j]) if i != j else -np.inf for i in range(k) for j in range(k)
    }
    out, merged = [], set()
    while g and max(g.values()) >= threshold:
        best = max(g.values())
        i, j = min(key for key, value in g.items() if value == best)
        members = [c for c in range(k) if g[i, c] > threshold]
        if not literal:
            members = sorted({*members, i})
        if not members:
            g[i, j] = -np.inf
            continue
        out.append(members)
        merged |= set(members)
        for a, b in g:
            if a in members or b in members:
                g[a, b] = -np.inf
    return out if literal else out + [[c] for c in range(k) if c not in merged]


def random_features(seed, k):
    rng = np.random.default_rng(seed)
    middles = rng.standard_normal((3, 4))
    return (middles[rng.integers(0, 3, k)] + 0.3 * rng.standard_normal((k, 4))).astype(np.float32)


@given(st.integers(0, 10_000), st.integers(1, 12), st.floats(-0.5, 0.999), st.booleans())
def test_equals_the_transcription(seed, k, threshold, literal):
    features = random_features(seed, k)
    assert merge_clusters(features, threshold, literal) == transcription(
        features, threshold, literal
    )


@given(st.integers(0, 10_000), st.integers(1, 12), st.floats(-1, 1))
def test_default_reading_is_a_partition(seed, k, threshold):
    groups = merge_clusters(random_features(seed, k), threshold)
    assert sorted(c for group in groups for c in group) == list(range(k))


def test_literal_reading_loses_what_the_printed_text_loses():
    features = np.array([[1, 0], [1, 0.01], [0, 1]], np.float32)
    assert merge_clusters(features, 0.9) == [[0, 1], [2]]
    assert merge_clusters(features, 0.9, literal=True) == [[1]]


def test_nothing_merges_above_the_largest_cosine():
    features = np.eye(3, dtype=np.float32)
    assert merge_clusters(features, 0.5) == [[0], [1], [2]]
    assert merge_clusters(features[:0], 0.5) == []
