"""Text files that users name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from c2s_cache.errors import ConfigError, DataError
from c2s_cache.text_file import read_text


@pytest.mark.parametrize("data", ["café\r\n".encode(), "\ufeffcafé\r\n".encode()])
def test_utf8_is_read_with_and_without_a_mark(tmp_path, data):
    (tmp_path / "f").write_bytes(data)
    assert read_text(tmp_path / "f") == "café\r\n"


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("a\nb\ncafé".encode("latin-1"), "is not UTF-8 but another encoding: byte 0xe9 in line 3."),
        ("a\n".encode("utf-16"), "is not UTF-8 but UTF-16: byte 0xff in line 1."),
        (b"a\nb\0\n", "is no text: a zero byte in line 2."),
        (b"12345678901", "has 11 bytes; expected 10 at most."),
    ],
)
def test_anything_else_is_one_sentence(tmp_path, data, sentence):
    (tmp_path / "f").write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        read_text(tmp_path / "f", "list", 10, ConfigError)
    assert caught.value.what == f"list {tmp_path / 'f'} {sentence}"


def test_what_never_ends_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for file in (Path("/dev/zero"), tmp_path / "pipe"):
        with pytest.raises(DataError, match="is no regular file"):
            read_text(file)
    with pytest.raises(DataError, match="is a folder"):
        read_text(tmp_path)
    with pytest.raises(DataError, match=r"cannot be read \(No such file or directory\)"):
        read_text(tmp_path / "absent")
    with pytest.raises(DataError, match=r"cannot be read \(embedded null byte\)"):
        read_text(Path("a\0b"))
