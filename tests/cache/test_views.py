"""View geometry against plain loops."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pictures import photo
from PIL import Image

from c2s_cache.views import canonical_box, crop_image, crop_labels, inside_image

boxes = st.tuples(st.floats(-30, 30), st.floats(-30, 30), st.floats(5, 90), st.floats(5, 90)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@given(st.integers(1, 60), st.integers(1, 60), boxes, st.booleans(), st.integers(1, 20))
def test_labels_are_sampled_at_pixel_centres(h, w, box, flip, size):
    labels = np.random.default_rng(h * 61 + w).integers(0, 200, (h, w), dtype=np.uint8)
    got = crop_labels(labels, box, flip, size)
    inside = inside_image(h, w, box, flip, size)
    for y in range(size):
        for x in range(size):
            column = size - 1 - x if flip else x
            source_x = int(np.floor(box[0] + (column + 0.5) * ((box[2] - box[0]) / size)))
            source_y = int(np.floor(box[1] + (y + 0.5) * ((box[3] - box[1]) / size)))
            within = 0 <= source_x < w and 0 <= source_y < h
            assert inside[y, x] == within
            assert got[y, x] == (labels[source_y, source_x] if within else 255)


@given(st.integers(8, 60), st.integers(8, 60), boxes, st.integers(4, 20))
def test_padding_of_images_and_labels_agree(h, w, box, size):
    image = np.full((h, w, 3), 200, np.uint8)
    got = crop_image(image, box, False, size)
    inside = inside_image(h, w, box, False, size)
    assert got.shape == (size, size, 3)
    assert (got[~inside] == 0).all()
    assert (got[inside] == 200).all()


@given(boxes, st.integers(0, 99))
def test_flip_mirrors_the_view(box, seed):
    image = np.asarray(photo(np.random.default_rng(seed), 40, 50))
    plain, mirrored = crop_image(image, box, False, 16), crop_image(image, box, True, 16)
    np.testing.assert_array_equal(plain[:, ::-1], mirrored)


@given(st.integers(1, 700), st.integers(1, 700), st.integers(1, 300))
def test_the_canonical_box_is_a_square_of_the_short_side_inside_the_image(h, w, size):
    x0, y0, x1, y1 = canonical_box(h, w, size)
    assert 0 <= x0 < x1 <= w
    assert 0 <= y0 < y1 <= h
    assert min(x1 - x0, y1 - y0) == pytest.approx(min(h, w))


@given(st.integers(8, 60), st.integers(8, 60), st.integers(4, 40), st.booleans())
@example(24, 24, 24, False)
@example(24, 24, 24, True)
@example(24, 24, 12, False)
@example(24, 30, 24, True)
def test_the_canonical_view_is_the_image_resized_and_cut_at_its_middle(h, w, size, flip):
    image = photo(np.random.default_rng(h * 61 + w), h, w)
    short = min(h, w)
    tall, wide = (size if side == short else int(size * side / short) for side in (h, w))
    resized = np.asarray(image.resize((wide, tall), Image.Resampling.BICUBIC))
    top, left = round((tall - size) / 2), round((wide - size) / 2)
    want = resized[top : top + size, left : left + size]
    got = crop_image(np.asarray(image), canonical_box(h, w, size), flip, size)
    np.testing.assert_array_equal(got, want[:, ::-1] if flip else want)


@pytest.mark.parametrize(("height", "width"), [(2, 4000), (4000, 2), (1, 20_000)])
def test_of_a_strip_only_the_view_is_resized(height, width, monkeypatch):
    """Its whole at 512 pixels would have a thousand times the pixels of a view."""
    image = np.asarray(photo(np.random.default_rng(2), height, width))
    asked = []
    real = Image.Image.resize
    monkeypatch.setattr(
        Image.Image,
        "resize",
        lambda self, size, *rest: asked.append(size) or real(self, size, *rest),
    )
    got = crop_image(image, canonical_box(height, width, 512), False, 512)
    assert asked == [(512, 512)]
    short = min(height, width)
    first = (max(height, width) - short) // 2
    middle = image[first : first + short] if height > width else image[:, first : first + short]
    assert abs(got.mean((0, 1)) - middle.mean((0, 1))).max() < 8
