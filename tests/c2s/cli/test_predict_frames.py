"""Frames that go together in `c2s predict`: those before a damaged one are written; after an error nothing is."""

from __future__ import annotations

import numpy as np
import pytest

from c2s.cli import predict
from c2s.datasets import video_file
from c2s_cache.errors import C2SError, UnreadableImage


@pytest.fixture
def written(monkeypatch):
    """Numbers of the frames of each group that is written; a film of five frames whose sixth cannot be read."""
    groups = []

    def frames(path):
        yield from np.zeros((5, 4, 4, 3), np.uint8)
        raise UnreadableImage(f"{path} cannot be decoded after 5 frames.")

    def write(images, *_):
        groups.append([int(file.name) for file in images])

    monkeypatch.setattr(video_file, "frames", frames)
    monkeypatch.setattr(predict, "_write", write)
    return groups


@pytest.mark.parametrize(
    ("count", "groups"), [(1, [[0], [1], [2], [3], [4], []]), (2, [[0, 1], [2, 3], [4]])]
)
def test_frames_before_a_damaged_one_are_written(written, tmp_path, count, groups):
    with pytest.raises(UnreadableImage, match="after 5 frames"):
        predict._segment_video(tmp_path / "film.mp4", None, [], tmp_path, count)
    assert written == groups


def test_what_cannot_be_written_is_not_tried_again(written, tmp_path, monkeypatch):
    def full(images, *_):
        written.append(list(images))
        raise C2SError("no room")

    monkeypatch.setattr(predict, "_write", full)
    with pytest.raises(C2SError, match="no room"):
        predict._segment_video(tmp_path / "film.mp4", None, [], tmp_path, 2)
    assert len(written) == 1
