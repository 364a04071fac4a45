"""The file of an image tower: the same bytes for the same tower, and refused where it is another."""

from __future__ import annotations

import numpy as np
import pytest

from c2s_cache import CacheError
from c2s_cache.tower import TowerInfo, decode_tower, encode_tower, tower_info

INFO = TowerInfo(
    digest="ab" * 32,
    width=8,
    layers=2,
    heads=2,
    mlp=12,
    patch=4,
    image_size=14,
    dim=6,
    activation="quick_gelu",
    pool="tok",
    eps=1e-5,
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.2, 0.1),
)


def tensors(info=INFO):
    drawn = np.random.default_rng(0)
    return {k: drawn.standard_normal(s).astype(np.float32) for k, s in info.shapes().items()}


def test_a_tower_is_read_back_as_it_was_written():
    content = encode_tower(INFO, tensors())
    assert content.dtype == np.uint8
    assert tower_info(content) == INFO
    info, found = decode_tower(content)
    assert info == INFO
    assert found.keys() == tensors().keys()
    assert all(np.array_equal(found[k], v) for k, v in tensors().items())


def test_the_same_tower_is_the_same_bytes():
    backwards = dict(reversed(tensors().items()))
    assert np.array_equal(encode_tower(INFO, tensors()), encode_tower(INFO, backwards))


def test_patches_that_do_not_fill_the_image_have_no_position():
    assert INFO.grid == 3
    assert INFO.shapes()["positional_embedding"] == (10, 8)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop("proj"), "the tensor proj is None, expected float32 (8, 6)"),
        (lambda t: t.update(more=np.zeros(2, np.float32)), "more is [2], expected float32 None"),
        (lambda t: t.update(proj=t["proj"].T.copy()), "proj is [6, 8], expected float32 (8, 6)"),
        (lambda t: t.update(proj=t["proj"].astype(np.float16)), "proj is [8, 6]"),
    ],
)
def test_other_tensors_are_refused(change, says):
    wrong = tensors()
    change(wrong)
    with pytest.raises(CacheError) as error:
        encode_tower(INFO, wrong)
    assert says in error.value.what


@pytest.mark.parametrize("cut", [0, 5, 40, -8])
def test_a_damaged_file_is_refused(cut):
    with pytest.raises(CacheError, match="is no image tower"):
        decode_tower(encode_tower(INFO, tensors())[:cut])
