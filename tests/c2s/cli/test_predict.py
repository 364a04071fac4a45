"""`c2s predict` through the command line, with a student of two iterations."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from c2s.cli import app
from c2s.runs.run import open_run
from c2s_cache.errors import ConfigError, DataError, MissingExtra


def test_predict_writes_labels_and_overlays(trained, tmp_path, invoke):
    picture = tmp_path / "a photo.jpg"
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(picture)
    out = tmp_path / "out"
    invoke("predict", picture, "--run", trained, "--classes", "cow, sky", "--out", out)
    labels = np.asarray(Image.open(out / "a photo.png"))
    assert labels.shape == (40, 60)
    assert set(np.unique(labels)) <= {0, 1}
    assert (out / "a photo_overlay.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("count", "mode"), [(254, "L"), (300, "I;16")])
def test_label_images_have_8_bits_up_to_254_classes_and_16_beyond(
    trained, tmp_path, monkeypatch, invoke, count, mode
):
    """The last class wins everywhere."""
    rows = np.zeros((count, 16), np.float32)
    rows[:, 0] = np.linspace(-1, 1, count)
    rows[:, 1] = 1
    monkeypatch.setattr("c2s.text_tower.class_embeddings", lambda *_: rows)
    same = lambda self, images: torch.ones(len(images), 16, 8, 8)  # noqa: E731
    monkeypatch.setattr("c2s.students.segformer.SegFormer.forward", same)
    picture = tmp_path / "x.png"
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(picture)
    names = ", ".join(f"c{i}" for i in range(count))
    invoke("predict", picture, "--run", trained, "--classes", names, "--out", tmp_path / "o")
    with Image.open(tmp_path / "o" / "x.png") as labels:
        assert labels.mode == mode
        assert (np.asarray(labels) == count - 1).all()
    with Image.open(tmp_path / "o" / "x_overlay.png") as drawn:
        assert drawn.size == (4 * 60, 4 * 40 + 16)  # enlarged; one class is named


@pytest.mark.slow
def test_a_class_may_have_several_names(trained, tmp_path, invoke):
    """The best name counts, or their mean embedding; a list may stand in a file; predict.json repeats it."""
    picture = tmp_path / "x.png"
    colours = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    Image.fromarray(colours.repeat(10, 0).repeat(10, 1)).save(picture)
    names = open_run(trained).info.classes

    def predicted(out, *options):
        words = ("predict", picture, "--run", trained, "--out", tmp_path / out, "--device", "cpu")
        invoke(*words, *options)
        with Image.open(tmp_path / out / "x.png") as labels:
            return np.asarray(labels)

    alone = predicted("alone", "--classes", ", ".join(names))
    groups = (f"{names[0]} | {names[3]}", f"{names[1]}|{names[2]}", f"{names[4]}|{names[5]}")
    best = predicted("best", "--classes", ", ".join(groups))
    assert not np.array_equal(best, alone)
    mean = predicted("mean", "--classes", ", ".join(groups), "--synonyms", "mean")
    rows = [[names[0], names[3]], [names[1], names[2]], [names[4], names[5]]]
    (tmp_path / "list.yaml").write_text(json.dumps(rows))
    np.testing.assert_array_equal(
        predicted("file", "--classes", f"@{tmp_path / 'list.yaml'}"), best
    )
    facts = json.loads((tmp_path / "mean" / "predict.json").read_text())
    assert facts["classes"] == [names[0], names[1], names[4]]
    assert facts["config"]["classes"] == rows
    (tmp_path / "again.yaml").write_text(json.dumps(facts["config"]))
    words = ("predict", picture, "--out", tmp_path / "again", "--config", tmp_path / "again.yaml")
    assert json.loads(invoke(*words, "--json")) == facts
    with Image.open(tmp_path / "again" / "x.png") as labels:
        np.testing.assert_array_equal(np.asarray(labels), mean)


def test_predict_takes_folders_and_goes_on_after_a_broken_photo(trained, tmp_path, invoke):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for name in ("b.png", "c.JPG"):
        Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(photos / name)
    (photos / "a.jpg").write_bytes(b"no picture")
    (photos / "notes.txt").write_text("no picture either")
    with pytest.raises(DataError, match=r"1 of 3 images .*a\.jpg: image cannot be decoded"):
        invoke("predict", photos, "--run", trained, "--out", out)
    written = {path.name for path in out.iterdir()}
    assert written == {"b.png", "b_overlay.png", "c.png", "c_overlay.png", "predict.json"}
    with pytest.raises(ConfigError, match="There is no image in"):
        invoke("predict", trained, "--run", trained, "--out", out)


def test_predict_says_once_that_of_animated_photos_the_first_frame_is_taken(trained, tmp_path):
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    files = [str(tmp_path / name) for name in ("a.gif", "b.tif")]
    for file in files:
        frames[0].save(file, save_all=True, append_images=frames[1:])
    words = ["predict", *files, "--run", str(trained), "--out", str(tmp_path / "out")]
    said = CliRunner().invoke(app, words).stderr
    assert said.count("note: 2 images have several frames or pages; the first was taken.") == 1


def test_predict_waits_for_no_pipe_or_device(trained, tmp_path, invoke):
    photos = tmp_path / "photos"
    photos.mkdir()
    os.mkfifo(photos / "pipe.jpg")
    with pytest.raises(DataError, match=r"pipe\.jpg is no regular file"):
        invoke("predict", photos, "--run", trained, "--out", tmp_path / "out")
    said = r"2 of 2 images .*pipe\.jpg is no regular file.*zero is no regular file"
    named = (photos / "pipe.jpg", "/dev/zero")
    with pytest.raises(DataError, match=said):
        invoke("predict", *named, "--run", trained, "--out", tmp_path / "out")


@pytest.fixture
def photos(tmp_path):
    """A folder of two photos, and digests of all its files."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in (("a.png", "red"), ("b.jpg", "blue")):
        Image.new("RGB", (40, 40), colour).save(folder / name)
    return folder, lambda: {file.name: file.read_bytes() for file in folder.iterdir()}


def test_no_output_of_predict_replaces_a_photo_or_becomes_one(trained, photos, tmp_path, invoke):
    folder, content = photos
    before = content()
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").symlink_to(folder / "a.png")
    run = ("--run", trained, "--device", "cpu", "--out")
    for out in (folder, tmp_path / "link", folder / "." / ".." / "photos"):
        with pytest.raises(ConfigError, match="is the folder of photos itself"):
            invoke("predict", folder, *run, out)
    for out in (folder, tmp_path / "out"):
        with pytest.raises(ConfigError, match=r"a\.png would replace an image"):
            invoke("predict", folder / "a.png", *run, out)
    shutil.copy(folder / "b.jpg", tmp_path / "a.jpg")
    with pytest.raises(ConfigError, match=r"a\.png is there already, and not from here"):
        invoke("predict", tmp_path / "a.jpg", *run, folder)
    Image.new("RGB", (40, 40)).save(folder / "b_overlay.jpg")
    with pytest.raises(ConfigError, match=r"would both be written as b_overlay\.png"):
        invoke("predict", folder, *run, tmp_path / "o")
    (folder / "b_overlay.jpg").unlink()
    assert content() == before
    invoke("predict", folder / "b.jpg", *run, folder)  # beside it, and under names of its own
    assert {*content()} - {*before} == {"b.png", "b_overlay.png", "predict.json"}


def test_predict_says_which_classes_it_understood(trained, photos, tmp_path):
    words = [
        "predict",
        str(photos[0] / "b.jpg"),
        "--run",
        str(trained),
        "--out",
        str(tmp_path / "o"),
    ]
    said = CliRunner().invoke(app, [*words, "--classes", "cow\nsky | cat"])
    assert "2 classes: cow; sky | cat" in said.stderr
    alone = CliRunner().invoke(app, [*words, "--classes", "cow"])
    assert "1 class: cow. It fills every image" in alone.stderr
    assert "class" not in CliRunner().invoke(app, words).stderr


def test_a_run_that_is_not_trained_to_its_end_says_so(trained, photos, tmp_path, monkeypatch):
    words = ["predict", str(photos[0] / "b.jpg"), "--run", str(trained), "--out"]
    assert "note:" not in CliRunner().invoke(app, [*words, str(tmp_path / "whole")]).stderr
    stopped = replace(open_run(trained), complete=False, step=1)
    monkeypatch.setattr("c2s.runs.run.open_run", lambda *_: stopped)
    said = CliRunner().invoke(app, [*words, str(tmp_path / "part")])
    assert said.exit_code == 0
    assert f"{trained} has been trained for 1 of 2 iterations; c2s train --resume" in said.stderr


def test_predict_needs_the_text_tower_for_other_names(trained, tmp_path, monkeypatch, invoke):
    monkeypatch.setitem(sys.modules, "c2s_pipeline.teachers.text", None)
    with pytest.raises(MissingExtra, match=r"no text embedding of zebra.*c2s\[build\]"):
        invoke(
            "predict", "x.png", "--run", trained, "--classes", "zebra", "--out", tmp_path / "out"
        )


def test_a_video_becomes_a_folder_of_frames(trained, tmp_path, invoke):
    """Each frame gets the mask that it has as a photo; frames of another film are not mixed with these."""
    av = pytest.importorskip("av")
    rng = np.random.default_rng(0)
    shown = rng.integers(0, 256, (3, 40, 64, 3), np.uint8)
    film = tmp_path / "film.mkv"
    with av.open(str(film), "w") as container:
        stream = container.add_stream("ffv1", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 40, "bgr0"
        for pixels in shown:
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    for i, pixels in enumerate(shown):
        Image.fromarray(pixels).save(tmp_path / f"{i:06d}.png")
    photos = [tmp_path / f"{i:06d}.png" for i in range(3)]
    words = ("--run", trained, "--device", "cpu", "--out")
    invoke("predict", *photos, *words, tmp_path / "photos")
    said = invoke("predict", film, *words, tmp_path / "out")
    assert str(tmp_path / "out" / "film") in said
    written = sorted(path.name for path in (tmp_path / "out" / "film").iterdir())
    assert written == sorted(f"{i:06d}{end}.png" for i in range(3) for end in ("", "_overlay"))
    for name in written:
        one, other = tmp_path / "out" / "film" / name, tmp_path / "photos" / name
        assert one.read_bytes() == other.read_bytes()
    with pytest.raises(ConfigError, match=r"film is for the frames of .*film\.mkv and holds files"):
        invoke("predict", film, *words, tmp_path / "out")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(DataError, match=r"1 of 2 images .*broken\.mp4 cannot be decoded"):
        invoke("predict", broken, film, *words, tmp_path / "next")
    assert len(list((tmp_path / "next" / "film").iterdir())) == 6
    (tmp_path / "third").mkdir()
    (tmp_path / "third" / "film").write_text("mine")
    with pytest.raises(ConfigError, match="film is a file, where a folder is to be written"):
        invoke("predict", film, *words, tmp_path / "third")


def test_a_video_without_its_library_is_refused_before_anything_is_read(
    trained, tmp_path, monkeypatch, invoke
):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtra, match=r"c2s\[video\]"):
        invoke("predict", tmp_path / "a.mp4", "--run", trained, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
