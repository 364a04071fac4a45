"""An item is what a naive walk over a block's rows and views finds, of each of the four kinds of array."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tiny_cache import tiny_manifest

from c2s_cache import ArrayRecord, Block, Manifest, StageRecord

KINDS = {
    "s/row": ArrayRecord(axes=("pair",), dtype="int32"),
    "s/view": ArrayRecord(axes=("view", "pair"), dtype="int32"),
    "s/by_row": ArrayRecord(dtype="int32", end="s/row_end"),
    "s/by_view": ArrayRecord(axes=("pair",), dtype="int32", end="s/view_end"),
    "s/row_end": ArrayRecord(dtype="uint64"),
    "s/view_end": ArrayRecord(axes=("view",), dtype="uint32"),
}
RAGGED = {"s/by_row": "s/row_end", "s/by_view": "s/view_end"}
ONCE = {"once/whole": ArrayRecord(axes=("pair",), dtype="int32")}


def manifest_of(rows: int, views: int, block_rows: int) -> Manifest:
    usable = {"rows/usable": ArrayRecord(dtype="bool")}
    stages = (
        StageRecord(name="rows", arrays=usable),
        StageRecord(name="s", axes={"view": views, "pair": 2}, arrays=KINDS),
        StageRecord(name="once", once=True, arrays=ONCE),
    )
    values = tiny_manifest(rows, block_rows).model_dump() | {"stages": stages}
    return Manifest.model_validate(values)


@st.composite
def blocks(draw):
    """A block, and by path its items, row by row and view by view, each with numbers of its own."""
    rows, views, number = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(0, 2))
    usable = draw(st.lists(st.booleans(), min_size=rows, max_size=rows))
    manifest, counter = manifest_of(rows * (number + 1), views, rows), iter(range(10**6))

    def values(*shape: int) -> np.ndarray:
        return np.array([next(counter) for _ in range(int(np.prod(shape)))], np.int32).reshape(
            shape
        )

    lengths = st.integers(0, 3)
    items = {
        "s/row": [[values(2)] * views for _ in range(rows)],
        "s/view": [[values(2) for _ in range(views)] for _ in range(rows)],
        "s/by_row": [[values(draw(lengths))] * views for _ in range(rows)],
        "s/by_view": [[values(draw(lengths), 2) for _ in range(views)] for _ in range(rows)],
    }
    by_view = [item for row in items["s/by_view"] for item in row]
    by_row = [row[0] for row in items["s/by_row"]]
    arrays = {
        "rows/usable": np.array(usable),
        "s/row": np.stack([row[0] for row in items["s/row"]]),
        "s/view": np.stack([np.stack(row) for row in items["s/view"]]),
        "s/by_row": np.concatenate(by_row),
        "s/row_end": np.cumsum([len(item) for item in by_row], dtype=np.uint64),
        "s/by_view": np.concatenate(by_view),
        "s/view_end": np.cumsum([len(i) for i in by_view], dtype=np.uint32).reshape(rows, views),
        "once/whole": values(2),
    }
    return Block(manifest, rows * number, arrays), items, usable


@given(blocks())
def test_items_are_those_of_their_row_and_view(drawn):
    block, items, usable = drawn
    for path, rows in items.items():
        for at in range(len(usable)):
            for view, want in enumerate(rows[at]):
                found = block.item(path, at, view)
                assert found.shape == want.shape, (path, at, view)
                np.testing.assert_array_equal(found, want)


@given(blocks())
def test_samples_are_those_of_the_usable_rows(drawn):
    block, items, usable = drawn
    kept = [at for at, can_be_used in enumerate(usable) if can_be_used]
    assert block.rows.tolist() == [block.start + at for at in kept]
    assert len(block) == len(kept)
    for i, at in enumerate(kept):
        for view in range(block.manifest.views):
            sample = block.sample(i, view)
            assert (sample.row, sample.view) == (block.start + at, view)
            assert sample.arrays.keys() == {"rows/usable", *items}
            assert "s/row" in sample
            assert not any(path in sample for path in ("once/whole", "s/row_end", "s/view_end"))
            assert sample["rows/usable"]
            for path in items:
                np.testing.assert_array_equal(sample[path], items[path][at][view])


@given(blocks())
def test_what_was_not_read_is_in_no_sample(drawn):
    block, items, usable = drawn
    for path in items:
        read = {path, RAGGED.get(path, path), "rows/usable"}
        part = Block(block.manifest, block.start, {p: block.arrays[p] for p in read})
        for i in range(sum(usable)):
            assert part.sample(i).arrays.keys() == {path, "rows/usable"}


def test_kinds_of_arrays_are_told_apart():
    """Views count for the two that have an item for each of them, even if there is one view only."""
    for views in (1, 3):
        manifest = manifest_of(4, views, 2)
        kinds = {path: manifest.per_view(path) for path in ("s/row", "s/view", *RAGGED)}
        assert kinds == {"s/row": False, "s/view": True, "s/by_row": False, "s/by_view": True}
        assert manifest.views == views
