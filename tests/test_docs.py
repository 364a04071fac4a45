"""README and docs are true: commands exist, links lead somewhere, settings are the code's, the first steps run."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
import yaml
from pictures import label_map, photo
from pydantic import BaseModel

from c2s.cli import app
from c2s.cli.settings import EvalConfig, FoldConfig, PredictConfig
from c2s.methods.registry import method_class
from c2s.methods.zeroseg import ZeroSegSettings
from c2s.runs.config import TrainConfig, ValidationConfig
from c2s_pipeline.build.request import request_model

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "cache/SPEC.md", *sorted(ROOT.glob("docs/*.md"))]
COMMAND = typer.main.get_command(app)
BLOCK = re.compile(r"^    (c2s .*)$", re.MULTILINE)


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


def without_comment(line: str) -> str:
    return re.sub(r"\s+#.*$", "", line).strip()


def printed_commands(page: Path) -> list[str]:
    """Commands in indented blocks, table cells and inline code, without their comments."""
    text = page.read_text(encoding="utf-8")
    inline = re.findall(r"`(c2s [^`]*)`", text)
    commands = [without_comment(line) for line in BLOCK.findall(text) + inline]
    return sorted({c for c in commands if "->" not in c and "," not in c.split('"')[0]})


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_the_commands_exist(page: Path) -> None:
    for line in printed_commands(page):
        command = COMMAND
        words = shlex.split(line)[1:]
        while words and hasattr(command, "commands"):
            word = words.pop(0)
            assert word in command.commands, f"{line}: there is no {word!r}"
            command = command.commands[word]
        known = {option for param in command.params for option in param.opts}
        used = [word.partition("=")[0] for word in words if word.startswith("--")]
        assert set(used) <= known | {"--help"}, line


def test_pages_print_commands() -> None:
    assert len(printed_commands(README)) > 8
    assert sum(len(printed_commands(page)) for page in PAGES) > 60


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.is_file(), f"{target}: no such file"
        assert not anchor or anchor in anchors(file), f"{target}: no such heading"


def anchors(page: Path) -> set[str]:
    """Names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    for page in ROOT.glob("docs/*.md"):
        assert page.name == "README.md" or f"({page.name})" in index


def test_the_front_page_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def settings_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of a configuration and their defaults; Ellipsis where one is required."""
    for key, field in model.model_fields.items():
        default = ... if field.is_required() else field.get_default(call_default_factory=True)
        if field.annotation == ValidationConfig | None:
            yield from settings_of(ValidationConfig, f"{prefix}{key}.")
        elif isinstance(default, BaseModel):
            yield from settings_of(type(default), f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", default


def shown(default: Any) -> str:
    """A default as the page of settings prints it."""
    if default is ...:
        return "required"
    if default is None:
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, tuple):
        return f"`[{', '.join(map(str, default))}]`"
    return f"`{default}`"


def documented(page: str, headings: list[str]) -> list[tuple[str, str]]:
    """Keys and defaults in the tables of a page's sections."""
    text = (ROOT / page).read_text(encoding="utf-8")
    sections = {h: body for part in text.split("\n## ")[1:] for h, body in [part.split("\n", 1)]}
    bodies = "".join(body for h, body in sections.items() if h.startswith(tuple(headings)))
    return sorted(re.findall(r"^\| `([\w.]+)` \| ([^|]*) \|", bodies, re.MULTILINE))


@pytest.mark.parametrize(
    ("model", "headings"),
    [
        (request_model(), ["Of a cache"]),
        (TrainConfig, ["Of a run", "Of the method"]),
        (EvalConfig, ["Of a score"]),
        (PredictConfig, ["Of a prediction"]),
        (FoldConfig, ["Of a folded model"]),
    ],
)
def test_the_page_of_settings_is_the_code(model: type[BaseModel], headings: list[str]) -> None:
    found = documented("docs/settings.md", headings)
    assert found == sorted((key, shown(default)) for key, default in settings_of(model))


@pytest.mark.parametrize(
    ("method", "page"), [("clip-rc", "docs/clip-rc.md"), ("gkc", "docs/gkc.md")]
)
def test_the_page_of_a_method_has_its_settings(method: str, page: str) -> None:
    settings = settings_of(method_class(method), "method.")
    assert documented(page, ["Settings"]) == sorted((key, shown(value)) for key, value in settings)


def test_the_page_of_zeroseg_has_its_settings() -> None:
    page = (ROOT / "docs/zeroseg.md").read_text(encoding="utf-8").split("## Of the method")[1]
    rows = re.findall(r"^\| `([\w.]+)` \| ([^|]*) \|", page, re.MULTILINE)
    assert sorted(rows) == sorted(
        (k, shown(default)) for k, default in settings_of(ZeroSegSettings)
    )


SMALL = {
    "cache plan": "--pretrained random --set view_size=64 --sample 2",
    "cache build": "--pretrained random --set view_size=64",
    "train": "--iterations 2 --batch-size 2 --workers 0",
    "eval": "--limit 1 --mode whole",
    "predict": "--mode whole",
}
"""What makes the first steps small enough for a test, by command; nothing else is changed."""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_first_steps_on_ones_own_photos_run(tmp_path: Path) -> None:
    section = README.read_text(encoding="utf-8").split("## Five minutes on your own photos")[1]
    section = section.split("\n## ")[0]
    (descriptor,) = re.findall(r"^    (classes: .*\n(?:    .*\n)*)", section, re.MULTILINE)
    make_photos(tmp_path, descriptor.replace("\n    ", "\n"))
    for line in BLOCK.findall(section):
        line = without_comment(line)
        extra = next((SMALL[c] for c in SMALL if line.startswith(f"c2s {c} ")), "")
        run_c2s([*shlex.split(line)[1:], *extra.split()], tmp_path)
    assert (tmp_path / "out/street.png").is_file()
    card = json.loads((tmp_path / "model/config.json").read_text())
    assert (tmp_path / "model/model.pt2").is_file()
    assert "bicycle" in json.dumps(card)


def make_photos(folder: Path, descriptor: str) -> None:
    """Six photos with masks of all classes but the unseen ones, and a photo to segment."""
    seen = [i for i, c in enumerate(yaml.safe_load(descriptor)["classes"]) if c != "bicycle"]
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (folder / "photos" / part).mkdir(parents=True)
    (folder / "photos/classes.yaml").write_text(descriptor)
    for i in range(6):
        photo(rng, 96, 128).save(folder / f"photos/images/{i}.jpg")
        label_map(rng, 96, 128, [*seen, 255]).save(folder / f"photos/masks/{i}.png")
    photo(rng, 96, 128).save(folder / "street.jpg")


def run_c2s(arguments: list[str], folder: Path) -> None:
    command = [sys.executable, "-c", "from c2s.cli import main; main()", *arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(arguments)}: {done.stderr}"
