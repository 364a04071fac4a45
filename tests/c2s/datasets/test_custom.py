"""A user's own folder, and a user's own seen/unseen split."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import yaml
from official_trees import class_map, write_classes, write_values
from PIL import Image

from c2s.datasets import load_dataset
from c2s.datasets.check import check_split
from c2s_cache import C2SError, ConfigError, DataError


def test_a_folder_is_a_data_set(folder):
    dataset = load_dataset(str(folder))
    assert (dataset.name, dataset.short) == ("my data", "my-data")
    assert (dataset.classes, dataset.unseen) == (("cat", "dog", "grass"), (1,))
    assert dataset.splits == ("train",)
    split = dataset.split("train")
    assert split.ids == ("a", "b", "c")
    image, labels = split[0].read()
    assert image.shape[:2] == labels.shape
    with pytest.raises(DataError, match=r"no split 'val'. Splits: train"):
        _ = dataset.split("val").ids


@pytest.mark.parametrize(
    ("count", "dtype", "none"), [(254, np.uint8, 255), (255, np.uint16, 65535)]
)
def test_label_maps_have_8_bits_up_to_254_classes_and_16_beyond(folder, count, dtype, none):
    """Files of 16 bits, with gaps: mask value 7 belongs to no class, nor does the type's largest."""
    write_classes(
        folder, classes={7: "nothing"} | {1000 + i: f"c{i}" for i in range(count)}, ignore=[7]
    )
    values = np.array([[7, 1000], [1000 + count - 1, none]], np.uint16)
    Image.fromarray(values).save(folder / "masks/a.png")
    for name in "bc":
        (folder / f"images/{name}.JPG").unlink()
        (folder / f"masks/{name}.png").unlink()
    labels = load_dataset(str(folder)).split("train").labels("a")
    assert labels.dtype == dtype
    np.testing.assert_array_equal(labels, [[none, 0], [count - 1, none]])
    report = check_split(load_dataset(str(folder)).split("train"))
    assert report.pixels.shape == (none + 1,)
    assert f"c{count - 1}" not in report.absent
    assert report.as_dict()["ignored_pixels"] == 2


def test_a_plain_name_may_be_a_folder(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert load_dataset("my data").name == "my data"
    monkeypatch.chdir(folder)
    assert load_dataset(".").name == "my data"


def test_a_file_of_a_plain_name_is_no_unknown_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "coco128.yaml").write_text("names: [cat]")
    with pytest.raises(DataError, match=r"c2s data convert coco128\.yaml --out"):
        load_dataset("coco128.yaml")


def test_hints_about_ones_own_data_name_no_archive(folder):
    write_classes(folder, classes=["cat", "dog"])
    split = load_dataset(str(folder)).split("train")
    with pytest.raises(
        DataError,
        match=r"value 2, which is outside the 2 classes\. If it means \"no label\", write ignore: \[2\]",
    ):
        _ = [split.labels(i) for i in split.ids]
    (folder / "masks/a.png").unlink()
    with pytest.raises(DataError, match=r"no label map; .*a.png. These are your own data"):
        _ = load_dataset(str(folder)).split("train").ids
    write_classes(folder, classes=["cat", "dog"], splits={"train": "lists/train.txt"})
    with pytest.raises(DataError, match=r"expected lists/train.txt. These are your own data"):
        _ = load_dataset(str(folder)).split("train").ids


def test_a_value_that_fits_no_form_of_a_key_is_one_sentence(folder):
    write_classes(folder, classes=None, color=1)
    with pytest.raises(ConfigError) as caught:
        load_dataset(str(folder))
    assert str(caught.value).count("got None") == 1
    assert str(caught.value).count("classes.yaml: ") == 2


def test_a_root_may_be_or_hold_a_folder_of_that_name(folder, tmp_path, monkeypatch):
    """So a cache, which knows no paths, finds its data set again: c2s cache derive --root."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for root in (folder, folder.parent):
        assert load_dataset("my data", root).split("train").ids == ("a", "b", "c")
    for root in (tmp_path / "elsewhere", None):
        with pytest.raises(ConfigError, match="unknown data set 'my data'"):
            load_dataset("my data", root)
    with pytest.raises(ConfigError, match="unknown data set 'other'"):
        load_dataset("other", folder)


def test_masks_with_gaps_ignored_values_and_prompts(folder, rng):
    labels = class_map(rng, 2)
    write_values(folder / "masks/a.png", labels, (7, 200), 0)
    write_classes(
        folder,
        name="pets",
        classes={200: "dogs_any", 0: "nothing", 7: "cat"},
        ignore=[0],
        unseen=[1],
        prompts={"dogs_any": "dog"},
    )
    dataset = load_dataset(str(folder))
    assert (dataset.name, dataset.classes) == ("pets", ("cat", "dogs_any"))
    assert (dataset.prompts, dataset.unseen) == (("cat", "dog"), (1,))
    np.testing.assert_array_equal(dataset.split("train").labels("a"), labels)
    with pytest.raises(DataError, match=r"b\.png holds the label value [12], which is outside"):
        dataset.split("train").labels("b")


def test_masks_may_have_a_suffix_of_their_own(folder):
    for name in "abc":
        (folder / f"masks/{name}.png").rename(folder / f"masks/{name}_mask.png")
    write_classes(folder, classes=["cat", "dog", "grass"], mask_suffix="_mask.png")
    assert load_dataset(str(folder)).split("train").ids == ("a", "b", "c")


@pytest.mark.parametrize("mode", ["P", "RGB", "RGBA", "I;16", "1"])
def test_forms_of_masks(mode, folder, rng):
    labels = class_map(rng, 2)
    labels[labels == 255] = 1
    file = folder / "masks/a.png"
    colours = {"cat": [10, 20, 30], "dog": [0, 255, 0]}
    palette = np.array([*colours.values()], np.uint8)
    if mode == "I;16":
        Image.fromarray(labels.astype(np.uint16) * 1000).save(file)
    elif mode == "1":
        Image.fromarray(labels.astype(bool)).save(file)
    elif mode == "P":
        image = Image.fromarray(labels, "L").convert("P")
        image.putpalette(palette.reshape(-1).tolist())
        Image.frombytes("P", image.size, labels.tobytes()).save(file)
    else:
        Image.fromarray(palette[labels]).convert(mode).save(file)
    classes = {0: "cat", 1000: "dog"} if mode == "I;16" else ["cat", "dog"]
    write_classes(folder, classes=classes, colours=colours if mode.startswith("RGB") else {})
    np.testing.assert_array_equal(load_dataset(str(folder)).split("train").labels("a"), labels)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"classes": ["a", "a"]}, "two classes called 'a'"),
        ({"classes": []}, "`classes` is empty"),
        ({}, "the key 'classes' is missing"),
        ({"classes": ["a", "b"], "unsen": ["a"]}, "unknown key 'unsen'; nearest is 'unseen'"),
        ({"classes": ["a"], "crop": 3}, "unknown key 'crop'; known: name, classes, words, ignore"),
        (
            {"classes": ["a"], "train": {"images": "a", "mask": "b"}},
            "unknown key 'train.mask'; nearest is 'masks'",
        ),
        (
            {"classes": ["cat", "b"], "unseen": ["cta"]},
            "'cta' is not in the class list. Did you mean 'cat'",
        ),
        ({"classes": ["a", "b"], "unseen": [2]}, "unseen class 2 is outside 0..1"),
        ({"classes": ["a", "b"], "unseen": ["a", 0]}, "has the class 'a' twice"),
        ({"classes": ["a"], "prompts": {"b": "c"}}, "`prompts` names 'b', which is no class"),
        ({"classes": [f"c{i}" for i in range(1 << 15)]}, "32,768 classes; at most 32,767"),
        ({"classes": {70000: "a"}}, "less than or equal to 65535"),
    ],
)
def test_a_wrong_classes_file_is_one_sentence(content, message, folder):
    write_classes(folder, **content)
    with pytest.raises(C2SError, match=message):
        load_dataset(str(folder))


def test_a_folder_without_classes_file(tmp_path):
    with pytest.raises(ConfigError, match=r"is no data set: it has no classes\.yaml and no photo"):
        load_dataset(str(tmp_path))
    with pytest.raises(DataError, match="there is no folder"):
        load_dataset(str(tmp_path / "nowhere"))


def test_two_images_of_one_name(folder):
    Image.new("RGB", (4, 4)).save(folder / "images/a.png")
    with pytest.raises(DataError, match="two images called a"):
        _ = load_dataset(str(folder)).split("train").ids


def test_real_photos_as_a_users_folder(shared_data, tmp_path):
    source = shared_data / "coco_photos"
    for kind in ("images", "masks"):
        (tmp_path / kind).symlink_to(source / kind)
    names = yaml.safe_load((source / "config.yaml").read_text())["classes"]
    write_classes(tmp_path, name="photos", classes=names, ignore=[0])
    dataset = load_dataset(str(tmp_path))
    split = dataset.split("train")
    assert len(split) == 100
    assert "unlabeled" not in dataset.classes
    values = [v for v in sorted(names) if v]
    for item in split[:20]:
        labels = item.read()[1]
        with Image.open(source / f"masks/{item.id}.png") as image:
            raw = np.asarray(image)
        known = labels != 255
        np.testing.assert_array_equal(known, raw != 0)
        np.testing.assert_array_equal(np.array(values)[labels[known]], raw[known])


def test_a_file_name_that_is_no_text_is_found_before_a_build(folder):
    """An image's id is text in the cache and in its records."""
    named = os.fsencode(folder / "images") + b"/caf\xe9.png"
    Image.new("RGB", (8, 8)).save(folder / "images/x.png")
    os.rename(folder / "images/x.png", named)  # noqa: PTH104
    split = load_dataset(str(folder)).split("train")
    with pytest.raises(DataError, match=r"not UTF-8: b'caf\\xe9\.png'\. Rename it"):
        _ = split.listed
    os.rename(named, os.fsencode(folder / "masks") + b"/caf\xe9.png")  # noqa: PTH104
    split = load_dataset(str(folder)).split("train")
    assert split.ids == ("a", "b", "c")
    with pytest.raises(DataError, match=r"masks holds a file whose name is not UTF-8"):
        _ = split.without_listing


def test_a_locale_of_ascii_is_named_where_it_cannot_write_a_file_name(folder):
    Image.new("RGB", (8, 8)).save(folder / "images/café.png")
    script = f"from c2s.datasets import load_dataset; load_dataset({str(folder)!r}).split('train').listed"
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False
    )
    assert "this locale cannot write: b'caf\\xc3\\xa9.png'. Set PYTHONUTF8=1." in done.stderr


def test_a_label_map_of_too_many_pixels_is_one_sentence_or_allowed(folder, monkeypatch):
    Image.new("1", (20_000, 9_000)).save(folder / "masks/b.png")
    with pytest.raises(
        DataError,
        match=r"b\.png cannot be read .*\(180,000,000 pixels; .*: C2S_MAX_PIXELS=180000000\)",
    ):
        load_dataset(str(folder)).split("train").labels("b")
    Image.new("1", (60, 50)).save(folder / "masks/b.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setenv("C2S_MAX_PIXELS", "3000")
    assert load_dataset(str(folder)).split("train").labels("b").shape == (50, 60)
    monkeypatch.setenv("C2S_MAX_PIXELS", "many")
    with pytest.raises(ConfigError, match="C2S_MAX_PIXELS='many' is no number of pixels"):
        load_dataset(str(folder)).split("train").labels("b")


def test_class_names_are_compared_in_one_form(folder):
    """Composed, with single spaces, wherever the file names them; a blank one is none."""
    names = ["cafe\u0301", " dog  house ", "grass"]
    write_classes(
        folder,
        classes=names,
        unseen=["dog house"],
        prompts={"caf\u00e9": "coffee house"},
    )
    dataset = load_dataset(str(folder))
    assert dataset.classes == ("caf\u00e9", "dog house", "grass")
    assert (dataset.unseen, dataset.prompts[0]) == ((1,), "coffee house")
    write_classes(folder, classes=["cat", " ", "grass"])
    with pytest.raises(ConfigError, match=r"classes\.yaml: the class of mask value 1 has no name"):
        load_dataset(str(folder))
    write_classes(folder, classes=["caf\u00e9", "cafe\u0301"])
    with pytest.raises(DataError, match="two classes called 'caf\u00e9'"):
        load_dataset(str(folder))


def test_words_are_classes_that_no_mask_has(folder):
    write_classes(
        folder, classes=["cat", "dog", "grass"], words=["tree", " wheel  chair"], unseen=["dog"]
    )
    dataset = load_dataset(str(folder))
    assert dataset.classes == ("cat", "dog", "grass", "tree", "wheel chair")
    assert dataset.unseen == (1, 3, 4)
    assert set(np.unique(dataset.split("train").labels("a"))) <= {0, 1, 2, 255}
    for words, error in ((["cat"], "two classes called 'cat'"), ([" "], "one of `words` is blank")):
        write_classes(folder, classes=["cat", "dog", "grass"], words=words)
        with pytest.raises(C2SError, match=error):
            load_dataset(str(folder))


def test_values_that_no_class_names_may_all_be_ignored(folder):
    whole = load_dataset(str(folder)).split("train").labels("a")
    assert 2 in whole
    write_classes(folder, classes=["cat", "dog"])
    with pytest.raises(DataError, match="label value 2, which is outside"):
        load_dataset(str(folder)).split("train").labels("a")
    write_classes(folder, classes=["cat", "dog"], ignore="others")
    got = load_dataset(str(folder)).split("train").labels("a")
    np.testing.assert_array_equal(got, np.where(whole == 2, 255, whole))
    drawn = np.array([(9, 9, 9), (0, 0, 255), (0, 255, 0)], np.uint8)[np.minimum(whole, 2)]
    Image.fromarray(drawn).save(folder / "masks/a.png")
    colours = {"cat": [9, 9, 9], "dog": [0, 0, 255]}
    write_classes(folder, classes=["cat", "dog"], colours=colours, ignore="others")
    np.testing.assert_array_equal(load_dataset(str(folder)).split("train").labels("a"), got)
    write_classes(folder, classes=["cat", "dog"], ignore="rest")
    with pytest.raises(ConfigError, match="ignore"):
        load_dataset(str(folder))


def test_photos_without_a_mask_are_used_where_the_file_says_so(folder):
    (folder / "masks/b.png").unlink()
    with pytest.raises(DataError, match=r"1 of 3 .* no label map.*unlabelled: use"):
        _ = load_dataset(str(folder)).split("train").ids
    write_classes(folder, classes=["cat", "dog", "grass"], unlabelled="use")
    split = load_dataset(str(folder)).split("train")
    assert split.ids == ("a", "b", "c")
    image, labels = split[1].read()
    assert labels.shape == image.shape[:2]
    assert (labels == 255).all()
    assert [split.annotated(i) for i in split.ids] == [True, False, True]
    report = check_split(split)
    assert report.problems == []
    assert any("1 photos have no label map" in note for note in report.notes)
    before = split.identity(split.ids)
    write_values(folder / "masks/b.png", split.labels("a"), (0, 1, 2))
    again = load_dataset(str(folder)).split("train")
    assert again.identity(again.ids) != before
