"""Label maps and photos as people have them: what they show is what is read, and nothing is left out in silence."""

from __future__ import annotations

import pickle
import unicodedata

import numpy as np
import pytest
import yaml
from PIL import ExifTags, Image

from c2s.datasets import load_dataset
from c2s.datasets.check import check_split, note_never_seen
from c2s.datasets.label_file import LabelError
from c2s_cache import DataError

NAMES = ["sky", "road", "tree"]
COLOURS = {"sky": [0, 0, 255], "road": [90, 90, 90], "tree": [0, 128, 0]}
TRUTH = np.array(
    [[0, 0, 1, 2, 2, 2], [0, 1, 1, 2, 0, 2], [2, 2, 1, 0, 1, 2], [1, 1, 1, 0, 0, 2]], np.uint8
)


@pytest.fixture
def folder(tmp_path):
    """An empty data set of photos and masks; `write` fills in one of them."""
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    classes(tmp_path)
    return tmp_path


def classes(root, **content):
    (root / "classes.yaml").write_text(
        yaml.safe_dump({"classes": NAMES} | content, allow_unicode=True)
    )


def write(root, mask, name="a", shape=TRUTH.shape, orientation=None, **options):
    exif = Image.Exif()
    if orientation:
        exif[ExifTags.Base.Orientation] = orientation
    Image.new("RGB", shape[::-1], "red").save(root / f"images/{name}.jpg", exif=exif)
    if isinstance(mask, np.ndarray):
        mask = Image.fromarray(mask)
    mask.save(root / f"masks/{name}.png", **options)


def labels(root, name="a"):
    return load_dataset(str(root)).split("train").labels(name)


def check(root):
    return check_split(load_dataset(str(root)).split("train"))


def indexed(order):
    """The colours of TRUTH as an indexed PNG whose palette has them in that order."""
    palette = np.array([COLOURS[NAMES[i]] for i in order], np.uint8)
    image = Image.fromarray(np.argsort(order)[TRUTH].astype(np.uint8), "P")
    image.putpalette(palette.reshape(-1).tolist())
    return image


RGB = np.array([COLOURS[n] for n in NAMES], np.uint8)[TRUTH]


@pytest.mark.parametrize(
    "picture",
    [
        Image.fromarray(RGB),
        Image.fromarray(np.dstack([RGB, np.full(TRUTH.shape, 255, np.uint8)])),
        Image.fromarray(np.dstack([RGB, np.zeros(TRUTH.shape, np.uint8)])),
        indexed([2, 0, 1]),
        indexed([1, 2, 0]),
        Image.fromarray(RGB).quantize(8),
    ],
    ids=["RGB", "RGBA", "transparent", "indexed", "indexed otherwise", "optimised"],
)
def test_colours_count_whatever_type_of_png_holds_them(folder, picture):
    classes(folder, colours=COLOURS)
    write(folder, picture)
    np.testing.assert_array_equal(labels(folder), TRUTH)


@pytest.mark.parametrize("mode", ["L", "1", "LA", "RGB", "RGBA", "P", "I;16"])
def test_greys_are_colours_too(folder, mode):
    classes(folder, classes=["sky", "road"], colours={"sky": [255, 255, 255], "road": [0, 0, 0]})
    white = TRUTH == 1
    picture = Image.fromarray((white * np.uint8(255)).astype(np.uint8))
    picture = Image.fromarray(white * np.uint16(65535)) if mode == "I;16" else picture.convert(mode)
    write(folder, picture)
    np.testing.assert_array_equal(labels(folder), np.where(white, 0, 1))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_class_numbers_may_be_stored_as_grey_of_any_kind(folder, mode):
    write(folder, Image.fromarray(TRUTH).convert(mode))
    np.testing.assert_array_equal(labels(folder), TRUTH)
    notes = check(folder).notes
    assert notes == ["1 label maps have an alpha channel, which is not looked at."] * ("A" in mode)


def test_class_numbers_may_be_the_indices_of_a_palette(folder):
    write(folder, indexed([0, 1, 2]))
    np.testing.assert_array_equal(labels(folder), TRUTH)


def test_a_colour_picture_without_colours_names_what_reads_it(folder):
    write(folder, RGB)
    with pytest.raises(
        DataError, match=r"is a colour picture.*`colours:`.*panoptic.*c2s data convert"
    ):
        labels(folder)


@pytest.mark.parametrize(
    ("suffix", "options", "name"),
    [
        (".jpg", {}, "JPEG"),
        (".jp2", {}, "JPEG 2000"),
        (".webp", {}, "lossy WebP"),
        (".avif", {}, "AVIF"),
        (".tif", {"compression": "jpeg"}, "TIFF with JPEG"),
    ],
)
def test_formats_that_change_values_are_refused_by_name(folder, suffix, options, name):
    classes(folder, mask_suffix=suffix)
    write(folder, TRUTH)
    (folder / "masks/a.png").unlink()
    Image.fromarray(TRUTH).save(folder / f"masks/a{suffix}", **options)
    with pytest.raises(DataError, match=f"is a {name}, which changes the values .* as PNG"):
        labels(folder)
    (problem,) = check(folder).problems
    assert name in problem.kind


def test_a_lossless_webp_is_taken(folder):
    classes(folder, mask_suffix=".webp")
    write(folder, TRUTH)
    Image.fromarray(TRUTH).save(folder / "masks/a.webp", lossless=True)
    np.testing.assert_array_equal(labels(folder), TRUTH)


def test_blended_edges_are_one_problem(folder):
    classes(folder, colours=COLOURS)
    big = Image.fromarray(RGB).resize((60, 40), Image.Resampling.BICUBIC)
    write(folder, big, shape=(40, 60))
    (problem,) = check(folder).problems
    assert "blended colours" in problem.kind
    assert problem.pixels > 100
    assert "smoothing" in problem.cure


def test_values_and_colours_outside_are_counted_by_kind(folder):
    for name, value in (("a", 11), ("b", 11), ("c", 9)):
        values = TRUTH.copy()
        values[0] = value
        write(folder, values, name)
    report = check(folder)
    (first, second), (third,) = report.kinds
    assert first.kind == "the label map holds the label value 11, which is outside the 3 classes"
    assert (first.where, second.where, third.where) == ("a", "b", "c")
    assert first.pixels == 6
    assert 'If it means "no label", write ignore: [11]' in first.cure
    assert report.pixels.sum() == 3 * (TRUTH.size - 6)
    classes(folder, ignore=[9, 11])
    assert check(folder).problems == []


def test_255_is_said_where_a_class_has_no_pixel(folder):
    classes(folder, classes=["background", "lesion"])
    write(folder, (TRUTH == 1) * np.uint8(255))
    report, also = check(folder), check(folder)
    note_never_seen([report])
    (note,) = report.notes
    assert note.startswith("1 class has no pixel: lesion; and 33.3 % of the pixels are of no class")
    assert "255: lesion" in note
    write(folder, TRUTH == 1)
    note_never_seen([also, check(folder)])
    assert also.notes == []  # another split has some
    write(folder, (TRUTH == 1) * np.uint8(255))
    classes(folder, classes={0: "background", 255: "lesion"})
    assert check(folder).notes == []
    np.testing.assert_array_equal(labels(folder), TRUTH == 1)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_label_map_has_an_orientation_of_its_own(folder, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    shape = TRUTH.shape
    write(folder, TRUTH, shape=shape, orientation=orientation, exif=exif)
    report = check(folder)
    assert (report.problems, report.notes) == ([], [])
    turned = {2: TRUTH[:, ::-1], 3: TRUTH[::-1, ::-1], 6: np.rot90(TRUTH, -1), 8: np.rot90(TRUTH)}
    if orientation in turned:
        np.testing.assert_array_equal(labels(folder), turned[orientation])


@pytest.mark.parametrize(("orientation", "square"), [(3, False), (2, False), (6, True), (8, True)])
def test_where_only_the_photo_is_turned_and_nothing_tells_the_assumption_is_said(
    folder, orientation, square
):
    truth = TRUTH[:, :4] if square else TRUTH
    write(folder, truth, shape=truth.shape, orientation=orientation)
    (note,) = check(folder).notes
    assert note.startswith("1 photos are turned upright by their EXIF orientation")
    assert "taken to fit the upright photo" in note


def test_sides_that_are_swapped_name_exif(folder):
    write(folder, TRUTH, shape=TRUTH.shape, orientation=6)
    (problem,) = check(folder).problems
    assert "sides are swapped, so EXIF orientation" in problem.what
    assert "exiftool" in problem.cure
    write(folder, np.rot90(TRUTH, -1), shape=TRUTH.shape, orientation=6)
    report = check(folder)
    assert (report.problems, report.notes) == ([], [])


def test_photos_of_every_ending_are_found(folder):
    for ending in (
        "jpg",
        "JPEG",
        "jfif",
        "jpe",
        "png",
        "webp",
        "avif",
        "gif",
        "bmp",
        "tif",
        "jp2",
        "ppm",
    ):
        Image.new("RGB", (6, 4)).save(folder / f"images/{ending}.{ending}")
        Image.fromarray(TRUTH).save(folder / f"masks/{ending}.PNG")
    report = check(folder)
    assert (report.images, report.problems, report.notes) == (12, [], [])


def test_what_is_passed_over_is_said_and_hidden_files_are_no_photos(folder):
    write(folder, TRUTH)
    for name in ("clip.mov", "b.CR2", "c.cr2", "notes", "._a.jpg", "Thumbs.db", ".DS_Store"):
        (folder / "images" / name).write_bytes(b"x")
    for name in (".ipynb_checkpoints", "@eaDir", "__MACOSX"):
        (folder / "images" / name).mkdir()
        Image.new("RGB", (6, 4)).save(folder / "images" / name / "a-checkpoint.jpg")
    (folder / "masks/._a.png").write_bytes(b"x")
    report = check(folder)
    assert (report.images, report.problems) == (1, [])
    assert report.notes == [
        "5 files are passed over, no photos by their names: 2 .cr2, 1 .mov, 1 without ending, 1 hidden. "
        "3 folders are passed over: .ipynb_checkpoints, @eaDir, __MACOSX."
    ]


def test_a_folder_with_nothing_but_other_files_says_what_it_has(folder):
    (folder / "images/a.cr2").write_bytes(b"x")
    with pytest.raises(DataError, match=r"holds no images .* 1 file is passed over.*1 \.cr2"):
        _ = load_dataset(str(folder)).split("train").ids


def test_of_animated_photos_the_first_frame_is_said_once(folder):
    frames = [Image.new("RGB", (6, 4), c) for c in ("red", "blue")]
    for name in "ab":
        frames[0].save(folder / f"images/{name}.gif", save_all=True, append_images=frames[1:])
        Image.fromarray(TRUTH).save(folder / f"masks/{name}.png")
    assert check(folder).notes == ["2 images have several frames or pages; the first is taken."]


def test_of_label_maps_with_several_pages_the_first_is_said_to_be_taken(folder):
    write(folder, TRUTH, save_all=True, append_images=[Image.fromarray(0 * TRUTH)])
    assert check(folder).notes == ["1 label maps have several frames or pages; the first is taken."]
    np.testing.assert_array_equal(labels(folder), TRUTH)


def test_label_maps_of_another_kind_name_the_converter(folder):
    write(folder, TRUTH)
    (folder / "masks/a.png").rename(folder / "masks/a.mat")
    with pytest.raises(
        DataError, match=r"masks holds 1 \.mat\. Convert them: c2s data convert --help"
    ):
        _ = load_dataset(str(folder)).split("train").ids
    (folder / "masks/a.mat").rename(folder / "masks/a.tif")
    with pytest.raises(DataError, match=r"mask_suffix: \.tif"):
        _ = load_dataset(str(folder)).split("train").ids
    assert "mask_suffix: .tif" in check(folder).problems[0].cure


@pytest.mark.parametrize("name", ["a.jpg", "a_mask.JPEG"])
def test_label_maps_in_a_format_that_changes_them_are_not_asked_for(folder, name):
    write(folder, TRUTH)
    (folder / "masks/a.png").rename(folder / "masks" / name)
    cure = check(folder).problems[0].cure
    assert cure.endswith("changes the values of a label map: export them anew as PNG.")
    assert "mask_suffix" not in cure


def test_an_ending_that_all_label_maps_share_is_told(folder):
    write(folder, TRUTH)
    write(folder, TRUTH, "b")
    for name in "ab":
        (folder / f"masks/{name}.png").rename(folder / f"masks/{name}_mask.png")
    with pytest.raises(DataError, match=r"a_mask\.png\. .*mask_suffix: _mask\.png"):
        _ = load_dataset(str(folder)).split("train").ids
    assert check(folder).problems[0].cure.endswith("mask_suffix: _mask.png")
    (folder / "masks/b_mask.png").rename(folder / "masks/b.png")
    assert "mask_suffix" not in check(folder).problems[0].cure


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("other", ["NFC", "NFD"])
def test_names_are_one_however_their_accents_are_written(folder, form, other):
    """macOS writes letters and accents apart, others together."""
    for name in ("café", "Zürich"):
        write(folder, TRUTH, "x")
        (folder / "images/x.jpg").rename(folder / f"images/{unicodedata.normalize(form, name)}.jpg")
        (folder / "masks/x.png").rename(folder / f"masks/{unicodedata.normalize(other, name)}.png")
    split = load_dataset(str(folder)).split("train")
    assert split.ids == ("Zürich", "café")
    assert check(folder).problems == []
    np.testing.assert_array_equal(split[0].read()[1], TRUTH)
    assert len(split.identity(split.ids)["files"]) == 64
    (folder / "train.txt").write_text(unicodedata.normalize(other, "café.jpg\n"))
    assert load_dataset(str(folder)).split("train").ids == ("café",)
    assert check(folder).problems == []


@pytest.mark.parametrize("hint", ["Export PNG.", None])
def test_what_is_wrong_with_a_label_map_is_said_alike_by_a_worker(hint):
    error = LabelError("a.jpg", "is a JPEG", hint, " (of a phone)")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.kind) == (str(error), "is a JPEG")
