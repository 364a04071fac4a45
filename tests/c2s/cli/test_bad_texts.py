"""Every command that reads a text file of the user's, and every way in which one can be none."""

from __future__ import annotations

import pytest
from tiny_cache import tiny_manifest

from c2s.runs.config import dump_yaml, load_config

BOMB = b"a0: &a0 [x, x]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 12)
)
CONTENTS = {
    "Latin-1": "name: café\n".encode("latin-1"),
    "UTF-16": "\ufeffcache: x\n".encode("utf-16-le"),
    "zero bytes": b"cache: \0\n",
    "binary": bytes(range(256)),
    "deep lists": b"cache: " + b"[" * 1500 + b"]" * 1500,
    "deep mappings": b'{"a":' * 1500 + b"1" + b"}" * 1500,
    "alias bomb": BOMB,
    "a long value": b"lr: " + b"x" * 20_000 + b"\nclasses: 1\n",
    "a long key": b"x" * 20_000 + b": 1\n",
    "many keys": b"".join(b"key%d: 1\n" % i for i in range(300)),
    "huge": b"cache: x\n" + b"# comment\n" * 200_000,
    "two documents": b"cache: x\n---\ncache: y\n",
    "a list": b"- cache\n",
    "code": b"cache: !!python/object/apply:os.getcwd []\n",
}
FEW = {"Latin-1", "deep lists"}
"""Of the fast tests; how the others are read does not depend on the command."""
SHAPES = ("--dataset", "shapes", "--split", "dev", "--limit", "1", "--out", "o.zarr")
RUN = ("--run", "run")
READERS = {
    "c.yaml": [
        ("train", "--cache", "CACHE", "--config", "c.yaml"),
        (
            "ablate",
            "--cache",
            "CACHE",
            "--dataset",
            "shapes",
            "--table",
            "IV",
            "--config",
            "c.yaml",
        ),
        ("ablate", "--cache", "CACHE", "--dataset", "shapes", "--grid", "c.yaml"),
        ("cache", "build", *SHAPES, "--config", "c.yaml"),
        ("cache", "build", *SHAPES, "--split-file", "c.yaml"),
        ("cache", "plan", "--dataset", "shapes", "--config", "c.yaml"),
        ("cache", "derive", "CACHE", "--out", "d.zarr", "--config", "c.yaml"),
        ("masks", "score", "--dataset", "shapes", "--split", "dev", "--config", "c.yaml"),
        ("data", "show", "voc", "--split-file", "c.yaml"),
    ],
    "c2s.yaml": [("data", "check", "voc")],
    "own/classes.yaml": [
        ("data", "check", "./own"),
        ("data", "show", "./own"),
        ("cache", "build", "--dataset", "./own", "--out", "o.zarr"),
    ],
    "own/train.txt": [("data", "check", "./own"), ("cache", "build", "--dataset", "./own")],
    "run/config.yaml": [
        ("train", "--resume", "run"),
        ("train", "--self-train", "run"),
        ("eval", *RUN, "--dataset", "shapes"),
        ("predict", "photo.jpg", *RUN, "--out", "o"),
        ("fold", *RUN, "--out", "o"),
    ],
    "run/run.json": [
        ("train", "--resume", "run"),
        ("eval", *RUN, "--dataset", "shapes"),
        ("fold", *RUN, "--out", "o"),
    ],
}
CASES = [(file, command) for file, commands in READERS.items() for command in commands]


@pytest.fixture
def place(tmp_path, tiny_cache, monkeypatch):
    """A folder with all that comes before the file in question."""
    for folder in ("own/images", "own/masks", "run/checkpoint"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "photo.jpg").touch()
    (tmp_path / "own/images/a.jpg").touch()
    (tmp_path / "own/masks/a.png").touch()
    (tmp_path / "own/classes.yaml").write_text("classes: [a, b]\n")
    config = load_config(cache=str(tiny_cache), name="run").resolved(tiny_manifest())
    (tmp_path / "run/config.yaml").write_text(dump_yaml(config))
    return tmp_path


@pytest.mark.parametrize(
    "contents",
    [FEW, pytest.param(set(CONTENTS) - FEW, marks=pytest.mark.slow)],
    ids=["few", "all others"],
)
@pytest.mark.parametrize(
    ("file", "command"), CASES, ids=lambda v: " ".join(v) if v != str(v) else v
)
def test_a_text_that_is_none_is_one_sentence(c2s, place, tiny_cache, file, command, contents):
    arguments = [str(tiny_cache) if a == "CACHE" else a for a in command]
    for what in sorted(contents):
        data = CONTENTS[what]
        (place / file).write_bytes(data)
        code, out, err = c2s(*arguments)
        told = (what, out[-500:], err[-2000:])
        assert code in (1, 2), told
        lines = err.splitlines()
        assert lines, told
        assert all(line.startswith("error: ") and len(line) < 5000 for line in lines[-20:]), told


@pytest.mark.parametrize(
    ("file", "command"),
    [case for case in CASES if case[0] != "run/run.json"],
    ids=lambda v: " ".join(v) if v != str(v) else v,
)
def test_what_is_no_regular_file_is_not_read(c2s, place, tiny_cache, file, command):
    arguments = [str(tiny_cache) if a == "CACHE" else a for a in command]
    (place / file).unlink(missing_ok=True)
    (place / file).symlink_to("/dev/zero")
    code, _, err = c2s(*arguments)
    assert code in (1, 2), err
    assert err.startswith("error: ")
