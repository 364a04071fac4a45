"""Sockets of loader processes, where the folder of temporary files has a long name."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from multiprocessing import util
from pathlib import Path

import pytest

from c2s.training import sockets
from c2s_cache import ConfigError


@pytest.fixture
def long(tmp_path, monkeypatch):
    """A folder of temporary files whose name has over 150 bytes, in a process that has not used it yet."""
    folder = tmp_path / ("x" * 150)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setitem(multiprocessing.current_process()._config, "tempdir", None)
    return folder


def test_sockets_lie_elsewhere_and_temporary_files_do_not(long):
    sockets.short_sockets()
    assert len(util.get_temp_dir()) < 60
    assert tempfile.gettempdir() == str(long)


def test_a_short_folder_is_left_alone(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    monkeypatch.setitem(multiprocessing.current_process()._config, "tempdir", None)
    sockets.short_sockets()
    assert multiprocessing.current_process()._config["tempdir"] is None


def test_without_a_short_folder_it_is_one_sentence(long, monkeypatch):
    monkeypatch.setattr(sockets, "SHORT", ("/nowhere",))
    with pytest.raises(ConfigError, match=r"cannot make sockets in .* or take --workers 0"):
        sockets.short_sockets()


@pytest.mark.slow
def test_loader_processes_hand_over_their_batches_from_there(tiny_cache, tmp_path):
    folder = tmp_path / ("x" * 150)
    folder.mkdir()
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
import tiny_runs
from pathlib import Path
from c2s.training import run

if __name__ == "__main__":
    run.train(tiny_runs.settings(Path({str(tiny_cache)!r}), Path({str(tmp_path)!r}), iterations=3, workers=2, name="r"))
"""
    file = tmp_path / "train.py"
    file.write_text(script)
    done = subprocess.run(
        [sys.executable, file],
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "r/checkpoint").is_dir()
