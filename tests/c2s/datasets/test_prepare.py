"""Derived label maps: what they hold, that originals stay, that an interrupted run ends like any other."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from official_trees import TREES, class_map, make_voc, write_image, write_list
from PIL import Image

from c2s.datasets import load_dataset
from c2s.datasets.context import CATEGORIES
from c2s.datasets.prepare import plan_preparation
from c2s.datasets.rle import decode, run_lengths
from c2s_cache import ConfigError, DataError


def contents(root):
    files = (f for f in sorted(root.rglob("*")) if f.is_file())
    return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def as_text(lengths):
    """Run lengths in the text form, written the other way round from the decoder."""
    text = ""
    for i, length in enumerate(lengths):
        value = length - lengths[i - 2] if i > 2 else length
        while True:
            group, value = value & 31, value >> 5
            last = value == (-1 if group & 16 else 0)
            text += chr(48 + (group if last else group | 32))
            if last:
                break
    return text


def runs(mask):
    """Lengths of the runs of 0 and 1 in turn, column after column, of a mask [H, W]."""
    lengths, value = [0], 0
    for pixel in mask.T.reshape(-1).tolist():
        if pixel != value:
            lengths.append(0)
            value = pixel
        lengths[-1] += 1
    return lengths


def test_known_run_lengths():
    # 3; 16 needs a second group for its sign; 40 = 8 + 32; then differences: 34 = 2 + 32, 5; and -14
    assert run_lengths("3`0X1R15") == [3, 16, 40, 50, 45]
    assert run_lengths("3`0X1B5") == [3, 16, 40, 2, 45]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 99), st.booleans())
def test_run_lengths_survive(height, width, share, seed, packed):
    mask = np.random.default_rng(seed).random((height, width)) < share
    counts = runs(mask)
    np.testing.assert_array_equal(
        decode(as_text(counts) if packed else counts, height, width), mask
    )


@pytest.mark.parametrize("counts", ["3", [4, 4, 5], [20, -8], ""])
def test_runs_must_fill_the_mask(counts):
    with pytest.raises(DataError, match="do not fill a mask of 4 x 3"):
        decode(counts, 3, 4)


@pytest.fixture
def context(tmp_path, rng):
    """Annotations of three images as the Detail API has them, and the label maps they mean."""
    root = tmp_path / "VOCdevkit/VOC2010"
    truth, photos, masks = {}, [], []
    for i, phase in enumerate(("train", "train", "val")):
        labels = class_map(rng, 59)
        stem = f"2008_{i:06d}"
        key = 2008000000 + i
        truth[stem] = labels
        write_image(root / f"JPEGImages/{stem}.jpg", labels)
        photos.append(
            {
                "file_name": f"{stem}.jpg",
                "phase": phase,
                "height": 24,
                "width": 30,
                "image_id": key,
                "date_captured": "31-12-2008",
            }
        )
        first = np.ones_like(labels, bool)  # covered by all that follows
        regions = [(0, first)] + [(CATEGORIES[c], labels == c) for c in np.unique(labels) if c < 59]
        for category, region in regions:
            rle = {"size": [24, 30], "counts": as_text(runs(region))}
            parts = [{"part_id": 1, "superpart": "x", "segmentation": rle}]
            masks.append(
                {
                    "image_id": key,
                    "category_id": category,
                    "segmentation": rle,
                    "parts": parts,
                    "area": int(region.sum()),
                    "bbox": [0, 0, 30, 24],
                }
            )
    content = {
        "info": {"year": 2016},
        "images": photos,
        "annos_segmentation": masks,
        "annos_occlusion": [{"image_id": 2008000000, "ot": []}],
        "categories": [{"category_id": 2, "name": "aeroplane", "onlysemantic": 0}],
    }
    (root / "trainval_merged.json").write_text(json.dumps(content))
    return root, truth


def test_context_from_its_annotations(context, tmp_path):
    root, truth = context
    dataset = load_dataset("context", tmp_path)
    with pytest.raises(DataError, match="then run: c2s data prepare context"):
        _ = dataset.split("train").ids
    originals = contents(root)
    plan = plan_preparation(dataset)
    assert (len(plan.jobs), plan.present) == (3, 0)
    plan.run()
    for split, ids in (("train", ("2008_000000", "2008_000001")), ("val", ("2008_000002",))):
        read = load_dataset("context", tmp_path).split(split)
        assert read.ids == ids
        for image_id in ids:
            np.testing.assert_array_equal(read.labels(image_id), truth[image_id])
    after = contents(root)
    assert originals.items() <= after.items()
    again = plan_preparation(dataset)
    assert (len(again.jobs), again.present, list(again.lists)) == (0, 3, [])


def test_what_was_written_stays_and_the_rest_follows(context, tmp_path):
    root, _ = context
    dataset = load_dataset("context-bg", tmp_path)
    plan_preparation(dataset).run()
    whole = contents(root)
    (root / "ImageSets/SegmentationContext/val.txt").unlink()
    (root / "SegmentationClassContext/2008_000001.png").unlink()
    kept = root / "SegmentationClassContext/2008_000000.png"
    stamp = kept.stat().st_mtime_ns
    plan = plan_preparation(dataset)
    assert (len(plan.jobs), plan.present) == (1, 2)
    plan.run()
    assert contents(root) == whole
    assert kept.stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"category_id": 0', '"category_id": 7', "category 7, which is none of the 59"),
        ('"counts": "`', '"counts": "a', "do not fill a mask"),
        ('"annos_segmentation"', '"annotations"', "has no images or no segmentations"),
        ('"phase"', '"stage"', "is damaged or no annotation file"),
        ('{"info"', '["info"', "is damaged or no annotation file"),
    ],
)
def test_damaged_annotations_are_one_sentence(old, new, message, context, tmp_path):
    root, _ = context
    file = root / "trainval_merged.json"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        plan_preparation(load_dataset("context", tmp_path)).run()
    assert not (root / "ImageSets").exists()


@pytest.mark.parametrize("name", ["coco-stuff", "cityscapes"])
def test_raw_ids_become_train_ids_beside_them(name, tmp_path, rng):
    truth = TREES[name](tmp_path, rng)
    dataset = load_dataset(name, tmp_path)
    originals = contents(tmp_path)
    plan = plan_preparation(dataset)
    assert len(plan.jobs) == 3
    plan.run()
    after = contents(tmp_path)
    assert originals.items() <= after.items()
    assert len(after) == len(originals) + 3
    for split, maps in truth.items():
        read = load_dataset(name, tmp_path).split(split)
        assert read.identity(read.ids)["labels"] == "labelTrainIds"
        for image_id, labels in maps.items():
            file, _ = read.label_file(image_id)
            with Image.open(file) as image:
                np.testing.assert_array_equal(np.asarray(image), labels)
    assert plan_preparation(dataset).jobs == []


def test_voc_from_the_semantic_boundaries_dataset(tmp_path, rng):
    import scipy.io as scipy_io

    make_voc(tmp_path, rng)
    top = tmp_path / "VOCdevkit/VOC2012"
    lists = top / "ImageSets/Segmentation"
    (lists / "trainaug.txt").unlink()
    write_list(lists / "train.txt", ["2007_000001"])
    (top / "SegmentationClassAug/2008_000002.png").unlink()
    (top / "SegmentationClassAug").rmdir()
    with pytest.raises(DataError, match="neither augmented masks"):
        plan_preparation(load_dataset("voc", tmp_path))
    boundaries = tmp_path / "benchmark_RELEASE/dataset/cls"
    boundaries.mkdir(parents=True)
    values = rng.integers(0, 21, (24, 30)).astype(np.uint8)
    for stem in ("2007_000001", "2007_000003", "2008_000002"):  # the second is in val
        content = {"GTcls": {"Segmentation": values, "CategoriesPresent": np.unique(values)}}
        scipy_io.savemat(boundaries / f"{stem}.mat", content)
    plan = plan_preparation(load_dataset("voc", tmp_path))
    plan.run()
    split = load_dataset("voc", tmp_path).split("train")
    assert split.ids == ("2007_000001", "2008_000002")
    want = np.where(values == 0, 255, values.astype(int) - 1)
    np.testing.assert_array_equal(split.labels("2008_000002"), want)
    assert not (top / "SegmentationClassAug/2007_000003.png").exists()
    assert plan_preparation(load_dataset("voc", tmp_path)).jobs == []
    (top / "SegmentationClassAug/2008_000002.png").unlink()
    (boundaries / "2008_000002.mat").write_bytes(b"no matrix")
    with pytest.raises(DataError, match=r"2008_000002\.mat is damaged"):
        plan_preparation(load_dataset("voc", tmp_path)).run()


def test_what_needs_no_preparation_says_so():
    with pytest.raises(ConfigError, match="ade20k needs no preparation"):
        plan_preparation(load_dataset("ade20k"))


def test_no_half_written_file_is_ever_in_place(context, tmp_path, monkeypatch):
    root, _ = context

    def fail(self, file, kind):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(file))

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(DataError, match=r"cannot be written .No space left on device"):
        plan_preparation(load_dataset("context", tmp_path)).run()
    folder = root / "SegmentationClassContext"
    assert list(folder.iterdir()) == []
