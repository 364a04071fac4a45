"""View geometry against plain loops."""

import io
import struct

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pictures import photo
from PIL import ExifTags, Image

from c2s_cache import UnreadableImage
from c2s_cache.views import canonical_box, crop_image, crop_labels, decode_image, inside_image

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


def encoded(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "P", "RGBA", "1"])
def test_every_mode_decodes_to_rgb(mode):
    image = photo(np.random.default_rng(0), 9, 12).convert(mode)
    form = "JPEG" if mode == "CMYK" else "PNG"
    assert decode_image(encoded(image, form)).shape == (9, 12, 3)


DEEP = np.array([[0, 255, 256, 4096, 65535], [1, 2, 30000, 40000, 50000]], np.uint16)


def deep(form: str, **options) -> bytes:
    return encoded(Image.fromarray(DEEP), form, **options)


def big_endian() -> bytes:
    image = Image.frombytes("I;16B", DEEP.shape[::-1], DEEP.astype(">u2").tobytes())
    return encoded(image, "TIFF")


def tiff(bits: int, photometric: int) -> bytes:
    """A TIFF of one strip: pixels 0, 16, 4095 of 12 bits, or 0, 256, 65535 of 16."""
    data = bytes.fromhex("000010fff0" if bits == 12 else "00000001ffff")
    tags = (
        *((256, 3, 3), (257, 3, 1), (258, 3, bits), (259, 3, 1), (262, 3, photometric)),
        *((273, 4, 8), (277, 3, 1), (278, 3, 1), (279, 4, len(data))),
    )
    start = 8 + len(data) + len(data) % 2
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    head = struct.pack("<2sHI", b"II", 42, start) + data.ljust(start - 8, b"\0")
    return head + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(
    "data",
    [deep("PNG"), deep("TIFF"), deep("PPM"), deep("JPEG2000"), big_endian()],
    ids=["PNG", "TIFF", "PGM", "JPEG 2000", "TIFF, big endian"],
)
def test_of_sixteen_bits_the_upper_eight_are_taken(data):
    want = np.repeat((DEEP >> 8).astype(np.uint8)[..., None], 3, 2)
    np.testing.assert_array_equal(decode_image(data), want)


@pytest.mark.parametrize(
    ("bits", "photometric", "want"),
    [(12, 1, [0, 1, 255]), (16, 1, [0, 1, 255]), (16, 0, [255, 254, 0])],
)
def test_a_tiff_says_where_its_white_is(bits, photometric, want):
    assert decode_image(tiff(bits, photometric))[0, :, 1].tolist() == want


def test_pixels_of_sixteen_bits_are_turned_upright():
    image = Image.frombytes("I;16", DEEP.shape[::-1], DEEP.tobytes())
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    got = decode_image(encoded(image, "PNG", exif=exif))
    np.testing.assert_array_equal(got[..., 0], np.rot90(DEEP >> 8, -1))


@pytest.mark.parametrize(
    ("pixels", "kind"),
    [
        (DEEP.astype(np.float32) / 65535, "fractions"),
        (DEEP.astype(np.int32), "whole numbers of 32 bits"),
    ],
)
def test_other_pixels_are_refused(pixels, kind):
    with pytest.raises(UnreadableImage) as caught:
        decode_image(encoded(Image.fromarray(pixels), "TIFF"))
    assert str(caught.value) == f"image has {kind} as pixels; expected 8 or 16 bits."


@pytest.mark.parametrize("cut", [0, 10, 200])
def test_truncated_files_are_unreadable(cut):
    data = encoded(photo(np.random.default_rng(0), 64, 64), "JPEG")
    with pytest.raises(UnreadableImage, match="cannot be decoded"):
        decode_image(data[:cut])


def test_what_is_wrong_with_an_image_is_said_in_the_same_words_every_time():
    """The words go into receipts, which a rebuild must repeat."""
    said = set()
    for data in (b"", b"no image", b"no image"):
        with pytest.raises(UnreadableImage) as caught:
            decode_image(data)
        said.add(str(caught.value))
    assert said == {"image cannot be decoded (no known image format)."}
