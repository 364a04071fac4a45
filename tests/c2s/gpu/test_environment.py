"""The environment of the steps, and which sources ran, where git and the network are missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from c2s.gpu import sources, wheels
from c2s.gpu.environment import NOTE, WHEELS, fits
from c2s.gpu.sources import commit, digest, origin

ROOT = Path(__file__).parents[3]
HERE = "{}.{}".format(*sys.version_info)


def note(root, **facts):
    (root / WHEELS).mkdir(parents=True, exist_ok=True)
    (root / WHEELS / NOTE).write_text(json.dumps(facts))


def test_wheels_are_used_where_they_fit(tmp_path):
    assert fits(tmp_path) == f"there are no wheels in {WHEELS}"
    note(tmp_path, python="3.8")
    assert fits(tmp_path) == f"the wheels are for Python 3.8 and this is {HERE}"
    note(tmp_path, python=HERE)
    assert fits(tmp_path) is None
    (tmp_path / WHEELS / NOTE).write_text("{")
    assert fits(tmp_path) == f"there are no wheels in {WHEELS}"


def test_what_leads_the_steps_needs_nothing_but_python():
    code = "import sys; sys.path.insert(0, sys.argv[1]); import c2s.gpu.__main__, c2s.gpu.child"
    subprocess.run([sys.executable, "-I", "-S", "-c", code, str(ROOT)], check=True)


def test_lacking_packages_are_pinned():
    pins = wheels.pinned((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    assert len(pins) == len(wheels.LACKING)
    assert all("==" in pin for pin in pins)
    with pytest.raises(SystemExit, match="no version of zarr, "):
        wheels.pinned("torch==2.0\n")


def test_wheels_too_large_to_be_carried_are_refused(tmp_path, monkeypatch, capsys):
    def download(command, check):
        Path(command[command.index("--dest") + 1], "large-1-py3-none-any.whl").write_bytes(
            bytes(2**20)
        )

    (tmp_path / "constraints.txt").write_text((ROOT / "constraints.txt").read_text())
    monkeypatch.setattr(wheels.subprocess, "run", download)
    wheels.main(tmp_path)
    assert "1.00 MiB  in" in capsys.readouterr().out
    assert json.loads((tmp_path / WHEELS / NOTE).read_text())["python"] == wheels.PYTHON
    monkeypatch.setattr(wheels, "MOST", 2**19)
    with pytest.raises(SystemExit, match=r"1\.0 MiB of wheels cannot be carried"):
        wheels.main(tmp_path)
    assert not (tmp_path / WHEELS).exists()


def test_sources_are_known_without_git(tmp_path, monkeypatch):
    for folder in sources.FOLDERS:
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.py").write_text("x = 1\n")
    assert origin(tmp_path) == "unknown"
    note(tmp_path, commit="abc", sources=digest(tmp_path), python="3.12")
    assert origin(tmp_path) == "abc"
    (tmp_path / "c2s/a.py").write_text("x = 2\n")
    assert origin(tmp_path) == "abc, and changed since"

    def git(*arguments):
        options = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", tmp_path, *options, *arguments], check=True)

    git("init", "--quiet")
    git("add", "c2s")
    git("commit", "--quiet", "--message", "a")
    head = commit(tmp_path)
    assert len(head) == 40
    (tmp_path / "c2s/a.py").write_text("x = 3\n")
    assert origin(tmp_path) == f"{head}, with changes"
