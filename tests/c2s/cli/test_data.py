"""`c2s data`: exit codes, JSON, and what a stopped process leaves behind."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from official_trees import TREES, class_map, make_ade20k, make_voc, write_image, write_values
from PIL import Image

from c2s.datasets.coco_stuff import RAW_VALUES

RUN = "from c2s.cli import main; print('ready', flush=True); main()"
HALTING = """
import itertools, threading
from pathlib import Path

replace, calls = Path.replace, itertools.count()

def halting(self, target):
    if next(calls) >= 5:
        threading.Event().wait()  # until the process is killed
    return replace(self, target)

Path.replace = halting
"""
READING = """
import itertools, time
from c2s.datasets import check

read, calls = check._read, itertools.count()

def slowly(*arguments):
    if next(calls) == 20:
        print("reading", flush=True)  # in the middle of it
    time.sleep(0.05)
    return read(*arguments)

check._read = slowly
"""


def start(*arguments, before=""):
    """The command as a process of its own, begun for certain."""
    process = subprocess.Popen(
        [sys.executable, "-c", before + RUN, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def contents(root):
    files = (f for f in sorted(root.rglob("*")) if f.is_file())
    return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def test_check_of_all_that_a_root_holds(c2s, tmp_path, rng):
    for make in TREES.values():
        make(tmp_path / "data", rng)
    code, out, err = c2s("data", "check", "--root", "data")
    assert (code, "error" in err) == (0, False), err
    assert "voc/train: 2 images of 10,582, a subset, 30 x 24 to 30 x 24 pixels" in out
    code, out, _ = c2s("data", "check", "--root", "data", "--json")
    splits = json.loads(out)["splits"]
    assert [f"{s['dataset']}/{s['split']}" for s in splits] == [
        f"{name}/{split}"
        for name in ("voc", "coco-stuff", "context", "ade20k", "cityscapes")
        for split in ("train", "val")
    ]
    assert all(s["problems"] == [] and not s["complete"] for s in splits)


def test_list_shows_what_the_root_holds(c2s, tmp_path, rng):
    make_voc(tmp_path, rng)
    code, out, _ = c2s("data", "list", "--root", tmp_path)
    held = [line.split()[0] for line in out.splitlines() if f"  in {tmp_path}" in line]
    assert (code, held) == (0, ["voc", "voc-bg"])
    assert json.loads(c2s("data", "list", "--json")[1])[:2] == ["shapes", "voc"]


def test_check_fails_on_any_problem(c2s, tmp_path, rng):
    make_voc(tmp_path, rng)
    file = tmp_path / "VOCdevkit/VOC2012/SegmentationClass/2007_000003.png"
    file.write_bytes(file.read_bytes()[:60])
    code, out, err = c2s("data", "check", "voc", "--root", tmp_path)
    assert code == 1
    assert "error: voc/val: 2007_000003: " in err
    assert "2007_000003.png cannot be read as a label map" in err
    assert "voc/train: 2 images" in out
    assert c2s("data", "check", "voc", "--root", tmp_path, "--split", "train")[0] == 0
    code, out, _ = c2s("data", "check", "voc", "--root", tmp_path, "--json")
    assert (code, len(json.loads(out)["splits"][1]["problems"])) == (1, 1)


def test_a_quick_check_looks_for_files_and_reads_none(c2s, tmp_path, rng):
    make_voc(tmp_path, rng)
    folder = tmp_path / "VOCdevkit/VOC2012/JPEGImages"
    (folder / "2007_000003.jpg").write_bytes(b"no image")
    quick = ("data", "check", "voc", "--root", tmp_path, "--quick")
    assert c2s(*quick)[0] == 0
    (folder / "2007_000001.jpg").unlink()
    code, _, err = c2s(*quick)
    assert code == 1
    assert "error: voc/train: 2007_000001: the image is missing." in err
    assert c2s(*quick[:-1], "--split", "val")[0] == 1


def test_a_subset_is_a_problem_only_when_asked(c2s, tmp_path, rng):
    make_ade20k(tmp_path, rng)
    (tmp_path / "ADEChallengeData2016/images/training").rename(tmp_path / "away")
    code, _, err = c2s("data", "check", "ade20k", "--root", tmp_path)
    assert code == 0
    assert "not there: ade20k/train" in err
    code, _, err = c2s("data", "check", "ade20k", "--root", tmp_path, "--complete")
    assert code == 1
    assert "error: ade20k/val: 2 images; the official split has 2,000." in err
    assert c2s("data", "check", "ade20k", "--root", tmp_path, "--split", "train")[0] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("data", "check"), 1, "nothing to check"),
        (("data", "check", "--root", "."), 1, "holds no data set: expected one of the folders VOC"),
        (("data", "check", "voc", "--root", "nowhere"), 1, "there is no folder nowhere"),
        (("data", "check", "voc", "--root", "."), 1, "expected the folder"),
        (("data", "check", "shapes", "--split", "tset"), 1, "no split 'tset'"),
        (("data", "check", "./mine"), 1, "there is no folder mine"),
        (("data", "prepare", "shapes"), 2, "shapes needs no preparation"),
        (("data", "prepare", "context", "--root", "."), 1, "trainval_merged.json"),
        (("data", "prepare", "voc"), 1, "where is voc?"),
        (("data", "show", "voc", "--split-file", "no.yaml"), 2, "no.yaml cannot be read"),
    ],
)
def test_wrong_usage_is_one_sentence(c2s, arguments, code, message):
    got, _, err = c2s(*arguments)
    assert message in err
    assert (got, "Traceback" in err) == (code, False)
    assert len([line for line in err.splitlines() if line.startswith("error:")]) == 1


def test_a_users_folder_from_the_command_line(c2s, tmp_path, rng):
    labels = class_map(rng, 2)
    write_image(tmp_path / "mine/images/a.jpg", labels)
    write_values(tmp_path / "mine/masks/a.png", labels, (0, 1))
    (tmp_path / "mine/classes.yaml").write_text(yaml.safe_dump({"classes": ["cat", "dog"]}))
    code, out, _ = c2s("data", "check", "./mine")
    assert code == 0
    assert "mine/train: 1 image, 30 x 24" in out
    (tmp_path / "split.yaml").write_text("unseen: [dog]\n")
    code, out, _ = c2s("data", "show", "mine", "--json", "--split-file", "split.yaml")
    facts = json.loads(out)
    assert (code, facts["classes"], facts["unseen"]) == (0, ["cat", "dog"], [1])


def test_photos_alone_are_checked_without_label_maps(c2s, tmp_path, rng):
    for name in "ab":
        write_image(tmp_path / f"photos/{name}.jpg", class_map(rng, 2))
    code, out, err = c2s("data", "check", "./photos")
    assert (code, err) == (0, "")
    assert "photos/train: 2 images, 30 x 24" in out
    (tmp_path / "photos/a.jpg").write_bytes(b"no image")
    code, _, err = c2s("data", "check", "./photos")
    assert (code, err.count("error:")) == (1, 1)


def test_images_that_cannot_be_counted_are_not_none(c2s, tmp_path, rng):
    write_image(tmp_path / "photos/a.jpg", class_map(rng, 2))
    os.mkfifo(tmp_path / "photos/b.jpg")
    code, out, err = c2s("data", "check", "./photos")
    assert (code, out) == (1, "photos/train: images not counted\n")
    assert "b.jpg is no regular file, but a pipe, socket or device. Remove it." in err
    (facts,) = json.loads(c2s("data", "check", "./photos", "--json")[1])["splits"]
    assert (facts["images"], facts["complete"]) == (None, False)


def test_show_says_where_to_get_it(c2s):
    code, out, _ = c2s("data", "show", "context-bg", "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["expected"] == {"train": [4996, 4998], "val": [5104, 5105]}
    assert facts["protocol"]["background"] == 0
    assert "trainval_merged.json" in facts["download"]
    out = c2s("data", "show", "voc")[1]
    assert '15  pottedplant          "potted plant", unseen' in out
    assert "split train: 10,582 images" in out


@pytest.fixture
def many(tmp_path, rng):
    """A COCO-Stuff tree whose label maps take a moment to convert."""
    top = tmp_path / "coco_stuff164k"
    labels = rng.integers(0, 171, (300, 300)).astype(np.uint8)
    for i in range(60):
        write_image(top / f"images/train2017/{i:012d}.jpg", labels)
        mask = top / f"stuffthingmaps_trainval2017/train2017/{i:012d}.png"
        write_values(mask, np.roll(labels, i), RAW_VALUES)
    return top


@pytest.mark.slow
def test_a_killed_preparation_resumes_to_the_same_files(c2s, many):
    masks = many / "stuffthingmaps_trainval2017/train2017"
    process = start("data", "prepare", "coco-stuff", "--root", many, before=HALTING)
    deadline = time.monotonic() + 60
    while not (len(list(masks.glob("*_labelTrainIds.png"))) == 5 and list(masks.glob(".*.part"))):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.communicate()
    written = list(masks.glob("*_labelTrainIds.png"))
    assert len(written) == 5, "the process was not stopped in the middle"
    for file in written:
        with Image.open(file) as image:
            image.load()
    code, out, _ = c2s("data", "prepare", "coco-stuff", "--root", many, "--json")
    assert code == 0
    assert json.loads(out)["present"] == len(written)
    resumed = contents(many)
    for file in masks.glob("*_labelTrainIds.png"):
        file.unlink()
    assert c2s("data", "prepare", "coco-stuff", "--root", many)[0] == 0
    assert contents(many) == resumed
    assert "nothing to do" in c2s("data", "prepare", "coco-stuff", "--root", many)[1]


@pytest.mark.slow
def test_an_interrupted_check_ends_at_once_without_a_traceback():
    process = start("data", "check", "shapes", before=READING)  # would take a minute
    assert process.stdout.readline() == "reading\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err


def test_from_a_folder_to_its_description_and_a_sheet_of_it(c2s, tmp_path, rng):
    for name in "abc":
        labels = class_map(rng, 2)
        write_image(tmp_path / f"mine/images/{name}.jpg", labels)
        write_values(tmp_path / f"mine/masks/{name}.png", labels, (0, 1))
    code, out, _ = c2s("data", "init", "mine")
    assert code == 0
    assert "mine: 3 photos in images have a label map in masks; 3 of these were looked at." in out
    assert "c2s data check ./mine; c2s data show ./mine --out sheet.png" in out
    code, out, err = c2s("data", "check", "./mine")
    assert code == 0
    assert "2 of 2 classes are called by a number, such as 'class 0'" in err
    assert c2s("data", "show", "./mine", "--out", "sheet.png")[:2] == (
        0,
        "sheet.png: 3 of 3 images of mine/train\n",
    )
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
    assert c2s("data", "init", "mine")[0] == 2
    for wrong, message in (
        (("--out", "sheet.doc"), "must end in .png, .jpg or .pdf"),
        (("--out", "sheet.png", "--split", "val"), "no split 'val'"),
        (("--split", "val"), "--split says which images --out draws"),
    ):
        assert message in c2s("data", "show", "./mine", *wrong)[2]


def test_problems_of_a_kind_are_one_line_and_the_table_has_every_class(c2s, tmp_path, rng):
    for i in range(30):
        write_image(tmp_path / f"mine/images/{i:02}.jpg", np.zeros((8, 8), np.uint8))
        Image.fromarray(np.full((8, 8), 11 if i < 25 else 1, np.uint8)).save(
            (tmp_path / "mine/masks").mkdir(exist_ok=True) or tmp_path / f"mine/masks/{i:02}.png"
        )
    (tmp_path / "mine/classes.yaml").write_text("classes: [sky, road, tree]\nunseen: [tree]\n")
    code, out, err = c2s("data", "check", "./mine")
    assert code == 1
    assert err.splitlines() == [
        "error: mine/train: 25 images: the label map holds the label value 11, which is outside the 3 classes. The "
        'first is 00 (83.3 % of the pixels). If it means "no label", write ignore: [11]; if it is a class, name it '
        "in `classes:`."
    ]
    assert out.splitlines()[1:] == [
        "    id  class     pixels  images",
        "     0  sky            -       0  seen, but no pixel of it is annotated",
        "     1  road     100.0 %       5",
        "     2  tree           -       0  unseen, but no pixel of it is annotated",
        "        no class       -       0",
    ]
    facts = json.loads(c2s("data", "check", "./mine", "--json")[1])["splits"][0]
    assert len(facts["problems"]) == 25
    assert [(k["count"], k["pixels"]) for k in facts["kinds"]] == [(25, 25 * 64)]
    assert facts["occurs"] == {"sky": 0, "road": 5, "tree": 0}


def test_what_is_passed_over_is_said_by_check_and_predict_alike(c2s, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/clip.mov").write_bytes(b"x")
    said = "1 file is passed over, no photos by their names: 1 .mov."
    assert said in c2s("data", "check", "./photos")[2]
    Image.new("RGB", (8, 8)).save(tmp_path / "photos/a.jfif")
    code, _, err = c2s("data", "check", "./photos")
    assert (code, err) == (0, f"note: photos/train: {said}\n")
    assert f"note: photos: {said}" in c2s("predict", "photos", "--run", "none", "--out", "o")[2]
