"""What is said of classes without a pixel, and of label maps that annotate nothing."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from c2s.annotation import (
    Annotation,
    alike,
    never_seen,
    no_label,
    read_annotation,
    require_annotation,
    unnamed,
)
from c2s_cache import ConfigError

NAMES = ("background", "lesion", "vessel")


def cache(*notes):
    receipts = {("labels", i): SimpleNamespace(notes=n) for i, n in enumerate(notes)}
    return SimpleNamespace(receipts=receipts, address="a.zarr")


def test_the_blocks_of_a_cache_are_summed():
    found = read_annotation(
        cache({"pixels": {"0": 4, "1": 1}, "ignored": 2}, {"pixels": {"0": 3}, "ignored": 0})
    )
    assert found == Annotation({0: 7, 1: 1}, 2)
    assert read_annotation(cache()) is None
    assert read_annotation(cache({})) is None  # a cache that was written without such notes


@pytest.mark.parametrize(
    ("pixels", "ignored", "said"),
    [
        ({0: 5, 1: 5, 2: 5}, 5, None),
        ({0: 5, 1: 5}, 0, "1 class has no pixel: vessel."),
        (
            {0: 50},
            50,
            "2 classes have no pixel: lesion, vessel; and 50.0 % of the pixels are of no class",
        ),
        ({0: 5000}, 1, "2 classes have no pixel: lesion, vessel."),
    ],
)
def test_classes_without_a_pixel_are_named(pixels, ignored, said):
    found = never_seen(NAMES, range(3), pixels, ignored)
    assert found is None if said is None else found.startswith(said)
    if said and ignored > 1:
        assert found.endswith("If 255 is one of them, say which in classes.yaml: 255: NAME")
        two = never_seen(NAMES, range(2), pixels, ignored)
        assert two.endswith("If 255 is it, say so in classes.yaml: 255: lesion")
    assert never_seen(NAMES, [0], pixels, ignored) is None  # the others are unseen
    many = never_seen(tuple("abcde"), range(5), {0: 50}, 50)
    assert many.endswith("and 50.0 % of the pixels are of no class (255, or `ignore:`).")


def test_a_cache_without_an_annotated_pixel_is_refused_where_labels_are_read():
    empty = cache({"pixels": {}, "ignored": 9})
    require_annotation(empty, ["masks"])
    require_annotation(cache(), ["labels"])
    require_annotation(cache({"pixels": {"0": 1}, "ignored": 9}), ["labels"])
    with pytest.raises(ConfigError, match=r"no label map of a\.zarr annotates .*c2s data check"):
        require_annotation(empty, ["labels"])


def test_classes_that_nobody_has_named_are_counted():
    assert unnamed(["cat", "class of 1999", "classy 3"]) is None
    assert "2 of 3 classes are called by a number, such as 'class 7'" in unnamed(
        ["a", "class 7", "class 12"]
    )


def test_a_class_that_may_be_no_label_is_said():
    assert no_label(["cat", "nullable"]) is None
    assert no_label(["cat", "Null"]).startswith("'Null' is learnt as a class")


def test_names_that_differ_in_case_alone_are_said():
    assert alike(["cat", "Dog", "cats"]) is None
    assert alike(["Sand", "dog", "sand"]).startswith("'Sand' and 'sand' differ in upper and lower")
