"""The page about a teacher of one's own is true: its file keeps the contract, and its commands build and verify."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from test_extension import c2s

from c2s_pipeline.teachers.base import TeacherSpec
from c2s_pipeline.teachers.registry import load_teacher

PAGE = (Path(__file__).parents[1] / "docs/own-teacher.md").read_text(encoding="utf-8")
FILES = re.compile(r"^```python title=(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = re.compile(r"^    (c2s .*)$", re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files of the page."""
    found = tmp_path_factory.mktemp("page")
    for name, text in FILES.findall(PAGE):
        (found / name).write_text(text, encoding="utf-8")
    return found


@pytest.fixture
def importable(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    yield
    sys.modules.pop("dinotxt", None)


def test_its_patches_meet_the_second_half_of_a_sentence(importable):
    spec = TeacherSpec("python:dinotxt:Tiny", "random")
    teacher = load_teacher(spec)
    images = torch.randint(0, 256, (2, 56, 56, 3), dtype=torch.uint8).numpy()
    cls, dense = teacher.dense(images)
    assert not dense[..., :32].any()
    torch.testing.assert_close(dense[..., 32:].mean((1, 2)), cls[:, 32:])
    assert teacher.tower.variants[-1] == "neighbour"


@pytest.mark.slow
def test_its_contract_holds(folder, importable):
    found = pytest.main(
        ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", str(folder / "test_dinotxt.py")]
    )
    assert found == 0


@pytest.mark.slow
def test_its_commands_run(folder, tmp_path):
    printed = [c2s(line, folder, tmp_path) for line in COMMANDS.findall(PAGE)]
    assert len(printed) == 4
    assert "image_size        56" in printed[0]
    assert "sound" in printed[3] or "rows" in printed[3]
