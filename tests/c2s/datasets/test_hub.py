"""Hugging Face data sets, written here in every form that is read: parquet, image folder, save_to_disk."""

from __future__ import annotations

import gc
import json
import pickle
import subprocess
import sys

import datasets
import numpy as np
import pytest
import yaml
from official_trees import class_map, write_image
from PIL import Image

from c2s.datasets import load_dataset
from c2s.datasets.check import check_split
from c2s.datasets.hub import _opened
from c2s_cache import ConfigError, DataError

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

NAMES = ["cat", "dog", "grass"]
COUNTS = {"train": 4, "validation": 2}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    _opened.cache_clear()


@pytest.fixture(autouse=True, scope="module")
def _collected():
    """`datasets` leaves metadata.csv open: its warning belongs here, not to a later test."""
    yield
    gc.collect()


@pytest.fixture
def truth(rng):
    """Label maps by split."""
    return {s: [class_map(rng, 3) for _ in range(n)] for s, n in COUNTS.items()}


def photo(labels):
    return Image.fromarray(np.repeat((labels % 251)[..., None], 3, 2))


def rows(labels):
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "annotation": datasets.Image(),
            "scene": datasets.ClassLabel(names=["indoor", "outdoor"]),
            "objects": datasets.List(datasets.ClassLabel(names=NAMES)),
        }
    )
    content = {
        "image": [photo(m) for m in labels],
        "annotation": [Image.fromarray(m) for m in labels],
        "scene": [0] * len(labels),
        "objects": [sorted({int(v) for v in np.unique(m)} - {255}) for m in labels],
    }
    return datasets.Dataset.from_dict(content, features=features)


def write(form, folder, truth):
    """Write a data set in one of its forms; returns the column of label maps."""
    whole = datasets.DatasetDict({s: rows(m) for s, m in truth.items()})
    if form == "disk":
        whole.save_to_disk(folder)
    elif form == "parquet":
        (folder / "data").mkdir(parents=True)
        for split, part in whole.items():
            part.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    else:
        for split, maps in truth.items():
            lines = ["file_name,mask_file_name"]
            (folder / split / "masks").mkdir(parents=True)
            for i, labels in enumerate(maps):
                photo(labels).save(folder / split / f"{i}.png")
                Image.fromarray(labels).save(folder / split / "masks" / f"{i}.png")
                lines.append(f"{i}.png,masks/{i}.png")
            (folder / split / "metadata.csv").write_text("\n".join(lines))
    return "mask" if form == "images" else "annotation"


def describe(folder, **content):
    folder.mkdir(exist_ok=True)
    (folder / "classes.yaml").write_text(yaml.safe_dump(content))
    return load_dataset(str(folder))


@pytest.fixture
def own(tmp_path, truth):
    """A folder of one's own that names a data set written beside it."""
    write("parquet", tmp_path / "source", truth)
    return tmp_path / "pets"


@pytest.mark.parametrize("form", ["parquet", "images", "disk"])
@pytest.mark.parametrize("where", [".", "../source"])
def test_every_form_gives_the_images_and_label_maps_written(tmp_path, truth, form, where):
    folder = tmp_path / "pets"
    write(form, (folder / where).resolve(), truth)
    dataset = describe(folder, hf=where, classes=NAMES, unseen=["dog"])
    assert (dataset.name, dataset.classes, dataset.unseen) == ("pets", tuple(NAMES), (1,))
    assert dataset.splits == tuple(COUNTS)
    for split, maps in truth.items():
        found = dataset.split(split)
        assert found.ids == tuple(f"{i:08d}" for i in range(len(maps)))
        for item, labels in zip(found, maps, strict=True):
            image, read = item.read()
            np.testing.assert_array_equal(read, labels)
            np.testing.assert_array_equal(image, np.asarray(photo(labels)))
        report = check_split(found)
        assert (report.images, report.problems) == (len(maps), [])
        assert int(report.pixels.sum()) == sum(m.size for m in maps)


def test_class_names_from_a_column_and_other_names_for_splits(own):
    dataset = describe(own, hf="../source", classes="objects", splits={"val": "validation"})
    assert dataset.classes == tuple(NAMES)
    assert dataset.splits == ("train", "val")
    assert len(dataset.split("val")) == COUNTS["validation"]
    with pytest.raises(DataError, match=r"no split 'validation'. Splits: train, val"):
        _ = dataset.split("validation").ids


def test_values_with_gaps_and_ignored_ones(own, truth):
    dataset = describe(own, hf="../source", classes={2: "grass", 0: "cat", 1: "dog"}, ignore=[1])
    assert dataset.classes == ("cat", "grass")
    table = np.full(256, 255, np.uint8)
    table[[0, 2]] = 0, 1
    for i, labels in enumerate(truth["train"]):
        got = dataset.split("train").labels(f"{i:08d}")
        np.testing.assert_array_equal(got, table[labels])


def test_the_identity_follows_the_content_and_a_split_travels_bare(own, truth, tmp_path):
    split = describe(own, hf="../source", classes=NAMES).split("train")
    before = split.identity(split.ids)
    assert pickle.loads(pickle.dumps(split)).identity(split.ids) == before
    assert len(pickle.dumps(split)) < 2000
    assert json.loads(json.dumps(before)) == before
    truth["train"][2] = np.zeros((50, 60), np.uint8)
    write("parquet", tmp_path / "changed", truth)
    other = describe(own, hf="../changed", classes=NAMES).split("train")
    other = other.identity(other.ids)
    assert other["files"] != before["files"]
    assert {**other, "files": ""} == {**before, "files": ""}


def test_what_is_wrong_with_it_is_one_sentence(own, truth, tmp_path):
    def refused(kind, message, **content):
        with pytest.raises(kind, match=message) as caught:
            describe(own, **({"hf": "../source", "classes": NAMES} | content))
        assert "\n" not in str(caught.value)

    refused(ConfigError, r"no column 'photo' of images; .*: image, annotation", images="photo")
    refused(ConfigError, r"no column 'scene' of images.*`masks:`", masks="scene")
    refused(ConfigError, r"no ClassLabel column 'image'; .*scene, objects", classes="image")
    refused(ConfigError, r"no split 'val'; its splits: train, validation", splits={"val": "val"})
    refused(
        DataError, r"nobody/nothing cannot be read: .*repository of the Hub", hf="nobody/nothing"
    )
    (tmp_path / "empty").mkdir()
    refused(DataError, r"empty cannot be read: .* any data files\. Name", hf="../empty")
    refused(ConfigError, r"must be a list or a mapping, got 'objects'", hf=None, classes="objects")


def test_a_script_beside_the_data_is_never_run(tmp_path):
    folder = tmp_path / "evil"
    folder.mkdir()
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(DataError, match="cannot be read"):
        describe(tmp_path / "own", hf="../evil", classes=NAMES)
    assert not (tmp_path / "ran").exists()


def test_two_columns_that_may_be_masks_must_be_told_apart(tmp_path, truth):
    content = rows(truth["train"])
    depth = content.select_columns("annotation").rename_column("annotation", "depth")
    datasets.concatenate_datasets([content, depth], axis=1).save_to_disk(tmp_path / "both")
    with pytest.raises(ConfigError, match=r"several that may be label maps; .*depth.*`masks:`"):
        describe(tmp_path / "own", hf="../both", classes=NAMES)
    dataset = describe(tmp_path / "own", hf="../both", classes=NAMES, masks="annotation")
    assert dataset.splits == ("train",)


def test_damaged_rows_are_named(own, truth, tmp_path):
    def damage(row):
        row["annotation"] = {"bytes": b"cut", "path": None} if row["objects"] else None
        return row

    content = rows(truth["train"]).cast_column("annotation", datasets.Image(decode=False))
    content.map(damage).cast_column("annotation", datasets.Image()).save_to_disk(tmp_path / "bad")
    split = describe(own, hf="../bad", classes=NAMES[:2]).split("train")
    problems = check_split(split).problems
    assert len(problems) == len(truth["train"])
    assert all("cannot be read as a label map" in str(p) for p in problems)
    good = describe(own, hf="../source", classes=["cat"]).split("train")
    assert any("outside the 1 classes" in str(p) for p in check_split(good).problems)


def test_a_folder_whose_name_is_a_pattern_is_named(own, truth, tmp_path):
    """The library would look for files that match it."""
    folder = tmp_path / "[a] b"
    (folder / "data").mkdir(parents=True)
    rows(truth["train"]).to_parquet(folder / "data/train-00000-of-00001.parquet")
    with pytest.raises(DataError, match=r"takes brackets, .* for a pattern\. Rename the folder"):
        describe(own, hf=str(folder), classes=NAMES)
    rows(truth["train"]).save_to_disk(folder / "saved")
    assert len(describe(own, hf=str(folder / "saved"), classes=NAMES).split("train"))


@pytest.mark.slow
def test_without_the_library_one_line_says_how_to_get_it(own):
    describe(own, hf="../source", classes=NAMES)
    code = (
        "import sys; sys.modules['datasets'] = None\n"
        "from c2s.cli import main; sys.argv = ['c2s', 'data', 'show', sys.argv[1]]; main()"
    )
    done = subprocess.run([sys.executable, "-c", code, str(own)], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "pip install 'c2s[hf]'" in done.stderr


@pytest.mark.slow
def test_a_folder_without_hf_imports_nothing_of_it(tmp_path, rng):
    write_image(tmp_path / "plain/images/a.png", class_map(rng, 2))
    (tmp_path / "plain/classes.yaml").write_text("classes: [a, b]")
    code = (
        "import sys; from c2s.datasets import load_dataset; load_dataset(sys.argv[1]); "
        "assert not {'datasets', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "plain")], check=True)
