"""Two ways of running the command line, and a run to name on it."""

from __future__ import annotations

import sys

import pytest
import torch
from tiny_datasets import Tiny
from tiny_runs import FAST
from typer.testing import CliRunner

from c2s.cli import main
from c2s.cli.app import app
from c2s_cache import C2SError


@pytest.fixture
def c2s(monkeypatch, capsys, tmp_path):
    """Run the command in this process and an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("C2S_DATA", raising=False)

    def run(*arguments: object):
        monkeypatch.setattr(sys, "argv", ["c2s", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        else:
            code = 0
        return (code, *capsys.readouterr())

    return run


@pytest.fixture
def invoke():
    """Run the command through typer's runner: its output; project errors are raised."""

    def run(*arguments: object) -> str:
        done = CliRunner().invoke(app, [str(a) for a in arguments])
        if isinstance(done.exception, C2SError):
            raise done.exception
        assert done.exit_code == 0, (done.output, done.exception)
        return done.stdout

    return run


@pytest.fixture
def tiny_dataset(monkeypatch):
    monkeypatch.setattr("c2s.datasets.load_dataset", lambda name, root=None: Tiny())


@pytest.fixture(scope="module")
def trained(tiny_cache, tmp_path_factory):
    torch.set_num_threads(1)
    runs = tmp_path_factory.mktemp("cli") / "runs"
    path = runs / "segformer-b0-tiny-seed3"
    done = CliRunner().invoke(
        app, ["train", "--cache", str(tiny_cache), *FAST, "--seed", "3", "--runs", str(runs)]
    )
    assert done.exit_code == 0, done.exception
    assert f"c2s eval --run {path} --dataset PATH/TO/tiny" in done.stdout
    return path
