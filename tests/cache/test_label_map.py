"""Label maps say by their type which value belongs to no class."""

from __future__ import annotations

import numpy as np
import pytest

from c2s_cache.label_map import MOST_CLASSES, ignored_id, label_type, size_mismatch, without


@pytest.mark.parametrize(
    ("classes", "dtype"),
    [(1, np.uint8), (254, np.uint8), (255, np.uint16), (MOST_CLASSES, np.uint16)],
)
def test_every_class_and_none_fit_into_the_type(classes, dtype):
    assert label_type(classes) == dtype
    assert classes - 1 < ignored_id(label_type(classes))
    assert classes - 1 <= np.iinfo(np.int16).max


@pytest.mark.parametrize(("dtype", "none"), [(np.uint8, 255), (np.uint16, 65535)])
def test_hidden_classes_are_ignored_and_all_else_stays(dtype, none):
    labels = np.array([[0, 1, 2], [3, none, 254]], dtype)
    shown = without(labels, (1, 254))
    assert shown.dtype == dtype
    np.testing.assert_array_equal(shown, [[0, none, 2], [3, none, none]])
    np.testing.assert_array_equal(without(labels, ()), labels)


def test_a_label_map_of_another_size_than_its_image_is_told_by_both_widths_first():
    labels = np.zeros((4, 6), np.uint8)
    assert size_mismatch(labels, 4, 6) is None
    assert size_mismatch(labels, 6, 5) == "the label map is 6 x 4 pixels, the image 5 x 6."
    assert size_mismatch(labels, 6, 4) == (
        "the label map is 6 x 4 pixels, the image 4 x 6: sides are swapped, so EXIF orientation may turn the photo "
        "and not its label map."
    )
