"""Videos: every frame, in order and upright; what cannot be decoded is told."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from c2s.datasets.video_file import frames, is_video
from c2s_cache.errors import MissingExtra, UnreadableImage

av = pytest.importorskip("av")


def film(file: Path, count: int = 5) -> Path:
    """A video whose frames are grey, each lighter than the last, with a dark left half."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(count):
            pixels = np.full((48, 64, 3), 40 * (i + 1), np.uint8)
            pixels[:, :32] = 0
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return file


def test_frames_come_in_order(tmp_path):
    found = list(frames(film(tmp_path / "a.mp4")))
    assert [f.shape for f in found] == [(48, 64, 3)] * 5
    assert {f.dtype for f in found} == {np.dtype(np.uint8)}
    light = [float(f[:, 40:].mean()) for f in found]
    np.testing.assert_allclose(light, [40, 80, 120, 160, 200], atol=6)
    assert max(float(f[:, :24].mean()) for f in found) < 6


@pytest.mark.parametrize(
    ("angle", "dark"), [(-90, np.s_[:24]), (90, np.s_[40:]), (180, np.s_[:, 40:])]
)
def test_a_turned_video_is_turned_upright(tmp_path, monkeypatch, angle, dark):
    """A phone that is held upright writes -90: to be turned a quarter clockwise, so that left becomes top."""
    film(tmp_path / "a.mp4", 1)

    class Turned:
        rotation = angle

        def __init__(self, frame):
            self.to_ndarray = frame.to_ndarray

    opened = av.open

    class Container:
        def __init__(self, name):
            self.held = opened(name)
            self.streams = self.held.streams

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.held.close()

        def decode(self, **words):
            return (Turned(frame) for frame in self.held.decode(**words))

    monkeypatch.setattr(av, "open", Container)
    (frame,) = frames(tmp_path / "a.mp4")
    assert frame.shape == ((48, 64, 3) if angle == 180 else (64, 48, 3))
    assert float(frame[dark].mean()) < 6 < float(frame.mean())


def test_what_is_no_video_is_told(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video at all")
    with pytest.raises(UnreadableImage, match=r"a\.mp4 cannot be decoded after 0 frames"):
        list(frames(tmp_path / "a.mp4"))
    with pytest.raises(UnreadableImage, match=r"b\.mp4 is no file"):
        list(frames(tmp_path / "b.mp4"))
    with av.open(str(tmp_path / "s.mkv"), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        for packet in (*sound.encode(frame), *sound.encode()):
            container.mux(packet)
    with pytest.raises(UnreadableImage, match=r"s\.mkv has no video stream"):
        list(frames(tmp_path / "s.mkv"))


def test_a_missing_library_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtra, match=r"av, which is not installed.*c2s\[video\]"):
        list(frames(tmp_path / "a.mp4"))


def test_names_tell_videos():
    assert is_video(Path("a.MP4"))
    assert not is_video(Path("a.gif"))
