"""Fingerprints follow the stage graph; differences are told by key."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from c2s_cache import CacheError
from c2s_cache.fingerprint import canonical_json, difference
from c2s_cache.manifest import ArrayRecord, Manifest, StageRecord, TeacherInfo
from c2s_cache.manifest_file import parse_manifest

TEACHER = TeacherInfo(
    name="ViT-B-16",
    pretrained="openai",
    digest="0" * 64,
    tower_digest="2" * 64,
    activation="quick_gelu",
    dim=8,
    image_size=32,
    dense_size=32,
    dense_dim=12,
    grid=(4, 5),
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
)
PART = {"source": {"files": 10}, "order": "0" * 64, "rows": 10}
CLS_FACTS = ("teacher.digest", "teacher.batch_size", "teacher.image_size")
DENSE_FACTS = ("teacher.digest", "teacher.batch_size", "teacher.dense_size")
GRAPH = {
    "images": ((), ("parts",)),
    "labels": (("images",), ("unseen", "num_classes")),
    "views": (("images", "labels"), ("seed",)),
    "global_cls": (("views",), CLS_FACTS),
    "dense": (("views",), DENSE_FACTS),
    "masks": (("views", "labels"), DENSE_FACTS),
    "regions": (("masks", "labels"), (*CLS_FACTS, "num_classes")),
    "text": ((), ("teacher.digest", "classes")),
}
"""What each stage depends on, and the facts that it lists."""
OF_VIEWS = {"views", "global_cls", "dense", "masks", "regions"}
TOUCHED = {
    "images": {"images", "labels", *OF_VIEWS},
    "labels": {"labels", *OF_VIEWS},
    "views": OF_VIEWS,
    "global_cls": {"global_cls"},
    "dense": {"dense"},
    "masks": {"masks", "regions"},
    "regions": {"regions"},
    "text": {"text"},
}
"""The stages that another request of one of them makes anew, written down by hand from the graph."""


def stages(left_out=(), **changes) -> list[StageRecord]:
    """The graph's stages; `changes` are of their records, by name."""
    found = []
    for name, (upstream, facts) in GRAPH.items():
        if name not in left_out:
            values = {
                "name": name,
                "settings": {"value": 0},
                "facts": facts,
                "upstream": upstream,
                "once": name == "text",
                "arrays": {f"{name}/values": ArrayRecord(dtype="uint8")},
            }
            found.append(StageRecord.model_validate(values | changes.get(name, {})))
    return found


def manifest(**changes) -> Manifest:
    values = {
        "dataset": "d",
        "split": "train",
        "parts": (PART,),
        "classes": ("a", "b", "c"),
        "unseen": (1,),
        "block_rows": 4,
        "view_size": 32,
        "teacher": TEACHER,
        "stages": stages(),
    }
    return Manifest.model_validate(values | changes)


def touched(before: Manifest, after: Manifest) -> set[str]:
    have, want = before.fingerprints, after.fingerprints
    return {name for name in have if have[name] != want[name]}


@pytest.mark.parametrize("part", [{"settings": {"value": 1}}, {"given": {"digest": "1"}}])
@pytest.mark.parametrize("stage", GRAPH)
def test_a_change_touches_exactly_the_stages_downstream(stage, part):
    assert touched(manifest(), manifest(stages=stages(**{stage: part}))) == TOUCHED[stage]


OF_TEACHER = {"global_cls", "dense", "masks", "regions"}


@pytest.mark.parametrize(
    ("fact", "value", "expected"),
    [
        ("teacher.dense_size", 64, {"dense", "masks", "regions"}),
        ("teacher.image_size", 64, {"global_cls", "regions"}),
        ("teacher.batch_size", 7, OF_TEACHER),
        ("teacher.digest", "1" * 64, {*OF_TEACHER, "text"}),
        ("teacher.name", "another", set()),
        ("parts", [{**PART, "source": {"files": 11}}], TOUCHED["images"]),
        ("parts", [{**PART, "order": "1" * 64}], TOUCHED["images"]),
        ("parts", [{**PART, "rows": 11}], TOUCHED["images"]),
        ("parts", [PART, PART], TOUCHED["images"]),
        ("seed", 1, OF_VIEWS),
        ("unseen", (2,), TOUCHED["labels"]),
        ("classes", ("a", "b", "x"), {"text"}),
        ("classes", ("a", "b", "c", "d"), {*TOUCHED["labels"], "text"}),
        ("dataset", "e", set()),
        ("view_size", 64, set()),
    ],
)
def test_a_fact_touches_what_lists_it_and_all_downstream(fact, value, expected):
    name, _, of_teacher = fact.partition(".")
    changed = TEACHER.model_copy(update={of_teacher: value}) if of_teacher else value
    assert touched(manifest(), manifest(**{name: changed})) == expected


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("arrays", {"masks/values": ArrayRecord(dtype="uint8", zstd=9)}),
        ("axes", {"further": 3}),
    ],
)
def test_how_arrays_are_stored_is_no_part_of_a_fingerprint(part, value):
    """What decides it stands in the settings and facts."""
    assert touched(manifest(), manifest(stages=stages(masks={part: value}))) == set()


def test_a_cache_without_dense_tier_has_no_dense_stage():
    m = manifest(stages=stages(left_out=["dense"]))
    assert "dense" not in m.stage_names
    kept = {s: p for s, p in manifest().fingerprints.items() if s != "dense"}
    assert m.fingerprints == kept
    with pytest.raises(LookupError):
        m.stage("dense")


def test_blocks_cover_the_rows():
    m = manifest()
    assert [len(m.block_range(b)) for b in range(m.blocks)] == [4, 4, 2]
    assert (m.num_classes, m.seen) == (3, (0, 2))


parts = st.lists(st.integers(1, 30), min_size=1, max_size=6)


@given(rows=parts, block_rows=st.integers(1, 9))
def test_parts_begin_with_a_block_and_what_was_there_stays(rows, block_rows):
    """Blocks, row numbers and fingerprints of a cache that grows, against a count by hand."""
    described = [{**PART, "order": f"{i:064x}", "rows": n} for i, n in enumerate(rows)]
    m = manifest(parts=described, block_rows=block_rows)
    lengths = [min(block_rows, n - i) for n in rows for i in range(0, n, block_rows)]
    assert [len(m.block_range(b)) for b in range(m.blocks)] == lengths
    assert [m.block_range(b).start for b in range(m.blocks)] == [
        block_rows * b for b in range(len(lengths))
    ]
    assert (m.rows, m.extent) == (sum(rows), m.block_range(m.blocks - 1)[-1] + 1)
    of_parts = [m.blocks_of(part) for part in range(len(rows))]
    assert [b for blocks in of_parts for b in blocks] == list(range(m.blocks))
    assert [sum(lengths[b] for b in blocks) for blocks in of_parts] == rows
    for n in range(1, len(rows) + 1):
        before = manifest(parts=described[:n], block_rows=block_rows)
        assert m.first(n) == before
        for block in range(before.blocks):
            assert m.block_range(block) == before.block_range(block)
            for stage in GRAPH:
                assert m.fingerprint(stage, block) == before.fingerprint(stage, block)
    last = {stage: m.fingerprint(stage, m.blocks - 1) for stage in GRAPH}
    assert last == m.fingerprints
    if len(rows) > 1:
        changed = {stage for stage in GRAPH if m.fingerprint(stage, 0) != last[stage]}
        assert changed == TOUCHED["images"]


def test_stages_that_are_computed_once_belong_to_block_0():
    m = manifest()
    assert m.stages_of(0) == m.stage_names == tuple(GRAPH)
    assert m.stages_of(1) == tuple(name for name in GRAPH if name != "text")


def test_every_array_has_an_owner():
    m = manifest()
    assert m.owners == {f"{name}/values": name for name in GRAPH}
    assert m.arrays.keys() == m.owners.keys()
    assert m.stage("masks") == m.stages[5]


def test_axes_are_those_of_teacher_classes_and_stages():
    m = manifest()
    assert (m.views, "view" in m.axes) == (1, False)
    usual = {"channel": 8, "dense_channel": 12, "grid_y": 4, "grid_x": 5, "class": 3}
    assert dict(m.axes) == usual
    m = manifest(stages=stages(views={"axes": {"view": 2, "edge": 4}}))
    assert (m.views, dict(m.axes)) == (2, usual | {"view": 2, "edge": 4})


@pytest.mark.parametrize("classes", [(), ("a",)])
def test_classes_may_be_none(classes):
    m = manifest(classes=classes, unseen=())
    assert (m.num_classes, m.seen) == (len(classes), tuple(range(len(classes))))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unseen": (3,)}, "unseen class id lies outside"),
        ({"classes": tuple(map(str, range(255)))}, "at most 254 classes"),
        ({"parts": [{**PART, "rows": 0}]}, "greater than 0"),
        ({"parts": []}, "at least 1 item"),
        ({"extra": 1}, "Extra inputs"),
        ({"stages": stages()[::-1]}, "stage regions stands twice, or before"),
        ({"stages": [*stages(), stages()[3]]}, "stage global_cls stands twice"),
        ({"stages": stages(left_out=["masks"])}, "stage regions stands twice, or before"),
        ({"stages": stages(masks={"upstream": ("masks",)})}, "stage masks stands twice, or before"),
        ({"stages": stages(masks={"facts": ("teacher.colour",)})}, "no fact 'teacher.colour'"),
        ({"stages": stages(masks={"facts": ("",)})}, "no fact ''"),
        ({"stages": stages(masks={"facts": ("block_range",)})}, "no fact 'block_range'"),
        (
            {"stages": stages(masks={"arrays": {"m": ArrayRecord(axes=("z",), dtype="uint8")}})},
            "array m has an axis 'z' without a length",
        ),
        (
            {"stages": stages(masks={"arrays": {"m": ArrayRecord(end="n", dtype="uint8")}})},
            "array m has no column of ends 'n'",
        ),
        (
            {"stages": stages(masks={"arrays": {"dense/values": ArrayRecord(dtype="uint8")}})},
            "two stages have an array of the same path",
        ),
    ],
)
def test_wrong_manifests_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        manifest(**changes)


@pytest.mark.parametrize("fact", ["teacher.colour", "fact", "teacher.digest.x"])
def test_a_damaged_stage_is_one_sentence(fact):
    content = manifest().model_dump(mode="json")
    content["stages"][5]["facts"] = [fact]
    root = json.dumps({"attributes": {"c2s": content}}).encode()
    with pytest.raises(CacheError, match=f"the manifest is damaged at .*no fact '{fact}'"):
        parse_manifest(root, "a.zarr")


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


def test_fingerprints_of_some_stages_are_those_of_all_that_they_are_made_of():
    m = manifest()
    assert set(m.fingerprints_of(["regions"])) == {"regions", "masks", "views", "labels", "images"}
    assert m.fingerprints_of(["text", "no such stage"]) == {"text": m.fingerprints["text"]}
    assert m.fingerprints_of(m.stage_names) == m.fingerprints
