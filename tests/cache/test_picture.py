"""Pictures as people have them: every mode, turned, of many frames, cut off, too large."""

from __future__ import annotations

import io
import struct

import numpy as np
import pillow_heif
import pytest
from pictures import photo
from PIL import ExifTags, Image

from c2s_cache import ConfigError, UnreadableImage
from c2s_cache.picture import decode_image, opened, undecodable


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


ORIENTATIONS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", [0, 9, 99])
def test_an_unknown_orientation_turns_nothing(orientation):
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = orientation
    Image.new("RGB", (4, 2)).save(buffer, "PNG", exif=exif)
    with opened(buffer.getvalue(), undecodable) as picture:
        assert (picture.orientation, picture.image.size) == (1, (4, 2))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("PNG", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
    ],
    ids=["PNG", "TIFF", "TIFF, packed", "WebP"],
)
def test_every_orientation_is_turned_upright_once(orientation, form, options):
    pixels = np.random.default_rng(1).integers(0, 255, (6, 9, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encoded(Image.fromarray(pixels), form, exif=exif, **options)
    with opened(data, undecodable) as picture:
        assert (picture.orientation, picture.more) == (orientation, False)
    np.testing.assert_array_equal(decode_image(data), ORIENTATIONS[orientation](pixels))


@pytest.mark.parametrize("form", ["GIF", "TIFF", "WEBP", "PNG", "AVIF"])
def test_of_several_frames_the_first_is_read_and_there_are_said_to_be_more(form):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "lime")]
    data = encoded(
        frames[0],
        form,
        save_all=True,
        append_images=frames[1:],
        **({"lossless": True} if form == "WEBP" else {}),
    )
    for content, more in ((data, True), (encoded(frames[0], form), False)):
        with opened(content, undecodable) as picture:
            assert picture.more is more
        assert abs(decode_image(content)[8, 8].astype(int) - (255, 0, 0)).max() < 9


@pytest.mark.parametrize(
    ("form", "options", "lossy"),
    [
        ("JPEG", {}, "JPEG"),
        ("MPO", {}, "JPEG"),
        ("JPEG2000", {}, "JPEG 2000"),
        ("WEBP", {}, "lossy WebP"),
        ("WEBP", {"lossless": True}, None),
        ("AVIF", {}, "AVIF"),
        ("TIFF", {"compression": "jpeg"}, "TIFF with JPEG"),
        ("TIFF", {"compression": "tiff_lzw"}, None),
        ("PNG", {}, None),
        ("BMP", {}, None),
        ("GIF", {}, None),
        ("PPM", {}, None),
    ],
)
def test_formats_that_change_values_are_known(form, options, lossy):
    with opened(encoded(Image.new("RGB", (8, 8), "red"), form, **options), undecodable) as picture:
        assert picture.lossy == lossy


def test_an_animated_webp_is_lossy_if_a_frame_of_it_is():
    frames = [photo(np.random.default_rng(i), 16, 16) for i in range(2)]
    for lossless, lossy in ((True, None), (False, "lossy WebP")):
        data = encoded(
            frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=lossless
        )
        with opened(data, undecodable) as picture:
            assert picture.lossy == lossy


def heic() -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.new("RGB", (64, 48), "red")).save(buffer)
    return buffer.getvalue()


def test_heic_is_read_by_its_extra(monkeypatch):
    data = heic()
    image = decode_image(data)
    assert image.shape == (48, 64, 3)
    assert abs(image[24, 32].astype(int) - (255, 0, 0)).max() < 9
    with opened(data, undecodable) as picture:
        assert picture.lossy == "HEIC"


def test_without_the_extra_heic_is_refused_with_its_name(monkeypatch):
    def missing():
        raise ModuleNotFoundError("No module named 'pillow_heif'", name="pillow_heif")

    monkeypatch.setattr("c2s_cache.picture._allow_heic", missing)
    with pytest.raises(UnreadableImage, match=r"pip install 'c2s\[heic\]'"):
        decode_image(heic())


def test_a_picture_of_too_many_pixels_is_refused_with_what_allows_it(monkeypatch):
    data = encoded(Image.new("L", (60, 50)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadableImage, match=r"3,000 pixels; .* C2S_MAX_PIXELS=3000\)"):
        decode_image(data)
    monkeypatch.setenv("C2S_MAX_PIXELS", "2500")
    with pytest.raises(UnreadableImage, match="C2S_MAX_PIXELS=3000"):
        decode_image(data)
    monkeypatch.setenv("C2S_MAX_PIXELS", "3e3")
    assert decode_image(data).shape == (50, 60, 3)
    monkeypatch.setenv("C2S_MAX_PIXELS", "lots")
    with pytest.raises(ConfigError, match="'lots' is no number of pixels"):
        decode_image(data)
