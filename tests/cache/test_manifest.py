"""Fingerprints follow the stage graph; differences are told by key."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from c2s_cache.fingerprint import canonical_json, difference
from c2s_cache.manifest import STAGES, UPSTREAM, Manifest, TeacherInfo

TEACHER = TeacherInfo(
    name="ViT-B-16",
    pretrained="openai",
    digest="0" * 64,
    dim=8,
    image_size=32,
    dense_size=32,
    grid=(4, 4),
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
)


def manifest(**changes) -> Manifest:
    values = {
        "dataset": "d",
        "split": "train",
        "classes": ("a", "b", "c"),
        "unseen": (1,),
        "rows": 10,
        "block_rows": 4,
        "views": 1,
        "view_size": 32,
        "dense": "float16",
        "teacher": TEACHER,
        "requests": {s: {"value": 0} for s in STAGES},
    }
    return Manifest.model_validate(values | changes)


def downstream(stage: str) -> set[str]:
    found = {stage}
    for other in STAGES:
        if found & set(UPSTREAM[other]):
            found.add(other)
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_a_change_touches_exactly_the_stages_downstream(stage):
    before = manifest().fingerprints
    requests = {s: {"value": int(s == stage)} for s in STAGES}
    after = manifest(requests=requests).fingerprints
    assert {s for s in STAGES if before[s] != after[s]} == downstream(stage)


def test_a_cache_without_dense_tier_has_no_dense_stage():
    requests = {s: {"value": 0} for s in STAGES if s != "dense"}
    m = manifest(dense="none", requests=requests)
    assert "dense" not in m.stages
    kept = {s: p for s, p in manifest().fingerprints.items() if s != "dense"}
    assert m.fingerprints == kept


def test_blocks_cover_the_rows():
    m = manifest()
    assert [len(m.block_range(b)) for b in range(m.blocks)] == [4, 4, 2]
    assert m.seen == (0, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unseen": (3,)}, "unseen class id lies outside"),
        ({"classes": tuple(map(str, range(255)))}, "at most 254 classes"),
        ({"requests": {}}, "requests must name"),
        ({"rows": 0}, "greater than 0"),
        ({"extra": 1}, "Extra inputs"),
    ],
)
def test_wrong_manifests_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        manifest(**changes)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(json_values, json_values)
def test_difference_is_empty_exactly_for_equal_values(a, b):
    assert difference(a, a) == []
    if json.dumps(a, sort_keys=True) != json.dumps(b, sort_keys=True) and not _only_missing(a, b):
        assert difference(a, b) or a == b


def _only_missing(a, b):
    """An absent key and a null are told apart by nobody: both read as null."""
    return "null" in json.dumps([a, b])


def test_canonical_json_ignores_key_order():
    assert canonical_json({"b": 1, "a": 2}) == canonical_json({"a": 2, "b": 1}) == b'{"a":2,"b":1}'
