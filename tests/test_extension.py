"""The page about extensions is true: its package is found, and its commands build, train, score and predict."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from c2s.datasets import load_dataset

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/extend.md").read_text(encoding="utf-8")
FILE = re.compile(r"^```\w+ title=(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^    (c2s .*)$", re.MULTILINE)


def section(heading: str) -> str:
    return PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def extract(folder: Path) -> Path:
    """The files of the page."""
    for name, text in FILE.findall(PAGE):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "c2s_example/__init__.py").touch()
    return folder


def install(folder: Path) -> None:
    """What an editable installation would leave: metadata beside the package. No build tool need be there."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name, version = project["name"], project["version"]
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [
        line
        for group, entries in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{key} = {value}" for key, value in entries.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


def c2s(line: str, package: Path, here: Path, code: int = 0) -> str:
    """What a command prints; it must end with `code`."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(package)}
    command = [sys.executable, "-c", "from c2s.cli import main; main()", *shlex.split(line)[1:]]
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
    assert done.returncode == code, f"{line}: {done.stderr}"
    return done.stdout + done.stderr


def follow(heading: str, package: Path, here: Path) -> dict[str, str]:
    """Run the commands of a section in a folder with a photo; what each printed."""
    scenes = load_dataset("shapes").split("val")
    (here / "photo.png").write_bytes(scenes.encoded(scenes.ids[0]))
    lines = [re.sub(r"\s+#.*$", "", line).strip() for line in COMMAND.findall(section(heading))]
    return {line: c2s(line, package, here) for line in lines}


def size(file: Path) -> tuple[int, int]:
    with Image.open(file) as image:
        return image.size


def sources() -> dict[str, str]:
    """Digest of every file of c2s."""
    folders = (ROOT / "c2s", ROOT / "cache/c2s_cache", ROOT / "pipeline/c2s_pipeline")
    files = (f for folder in folders for f in folder.rglob("*") if f.suffix != ".pyc")
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.is_file()}


def test_the_page_shows_one_of_each() -> None:
    project = tomllib.loads(dict(FILE.findall(PAGE))["pyproject.toml"])["project"]
    groups = {"c2s.stages", "c2s.teachers", "c2s.methods", "c2s.students"}
    assert project["entry-points"].keys() == groups
    for name, text in FILE.findall(PAGE):
        if name.endswith(".py"):
            compile(text, name, "exec")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_package_adds_one_of_each(tmp_path: Path) -> None:
    package, before = extract(tmp_path / "package"), sources()
    install(package)
    said = follow("Build, train, evaluate, predict", package, tmp_path)
    (built,) = (text for line, text in said.items() if " cache build " in line)
    assert "--cache tiles.zarr --method tile-match" in built
    (verified,) = (text for line, text in said.items() if " cache verify " in line)
    assert "whole and sound" in verified
    assert "cosine of tiles at least" in verified
    facts = json.loads(c2s("c2s cache info tiles.zarr --json", package, tmp_path))
    assert facts["methods"] == ["tile-match"]
    assert facts["teacher"]["name"] == "mirrored"
    assert facts["stages"]["tiles"]["complete"]
    assert (tmp_path / "runs/tiny/run.json").is_file()
    assert size(tmp_path / "out/photo.png") == (64, 64)
    assert json.loads((tmp_path / "out/predict.json").read_text())["classes"] == [
        "circle",
        "striped ball",
    ]
    refused = c2s("c2s train --cache tiles.zarr --iterations 1", package, tmp_path, code=1)
    assert "lacks the stages global_cls, masks, regions" in refused
    assert sources() == before


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_same_files_are_used_without_a_package(tmp_path: Path) -> None:
    package, before = extract(tmp_path / "modules"), sources()
    said = follow("Without a package", package, tmp_path)
    (verified,) = (text for line, text in said.items() if " cache verify " in line)
    assert "cosine of tiles at least" in verified
    (told,) = (text for line, text in said.items() if " cache info " in line)
    assert "it can train python:c2s_example.tile_match:TileMatchConfig" in told
    unnamed = c2s("c2s cache verify code.zarr --quick", package, tmp_path)
    assert "Nothing here knows the stage tiles" in unnamed
    assert size(tmp_path / "out/photo.png") == (64, 64)
    assert sources() == before


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_its_parts_keep_their_contracts(tmp_path: Path) -> None:
    package = extract(tmp_path / "package")
    install(package)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(package)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, cwd=package, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
