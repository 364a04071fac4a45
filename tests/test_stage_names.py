"""A stage is named in its own file, by the method that needs it, in recipes and docs; elsewhere with a reason."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from c2s_pipeline.stages.registry import own

ROOT = Path(__file__).parents[1]
STAGES = {stage.name: stage for stage in own()}
FREE = ("pipeline/c2s_pipeline/stages/", "c2s/methods/*/")
"""Stages build on each other, and a method names those that it needs."""
EVERYDAY = {"images", "views"}
"""Words that count only as part of a path or key: progress bars and figures count images and views."""
OF_THE_FORMAT = "what the format itself says (SPEC 4): "
OF_DATA_SETS = "folders and keys of layouts on disk"
ALLOWED = {
    "c2s/methods/examples.py": (
        {
            *("images/data", "images/size", "labels/data", "labels/ignored"),
            *("views/box", "views/flip", "clips/clip"),
        },
        OF_THE_FORMAT
        + "where the pixels of a view lie, and which clip they are of, for every method",
    ),
    "c2s/text.py": (
        {"text", "text/embeddings", "words", "words/embeddings", "words/class"},
        OF_THE_FORMAT + "where embeddings of classes and words lie, for every method",
    ),
    "c2s/methods/cells.py": (
        {"cells", "cells/cls"},
        "which cells of this stage a method distils, for two methods",
    ),
    "c2s/students/clip_tower.py": (
        {"tower/weights"},
        OF_THE_FORMAT + "where the image tower lies, for students that are made of it",
    ),
    "c2s/students/prompted_clip.py": ({"tower"}, "a key of the student's architecture"),
    "pipeline/c2s_pipeline/teachers/paired.py": ({"tower"}, "an attribute of teachers"),
    "pipeline/c2s_pipeline/teachers/vit_weights.py": ({"tower"}, "an attribute of teachers"),
    "c2s/annotation.py": (
        {"labels"},
        OF_THE_FORMAT + "receipts of label maps say what they annotate",
    ),
    "c2s/testing/stage.py": ({"labels"}, "leakage can be tried only where there are label maps"),
    "c2s/cli/masks.py": ({"masks"}, "`c2s masks` measures what this stage makes"),
    "c2s/cli/masks_report.py": ({"masks"}, "counts true masks, in JSON"),
    "c2s/cli/app.py": ({"masks"}, "the name of that command"),
    "pipeline/c2s_pipeline/mask_quality.py": (
        {"masks", "views"},
        "`c2s masks` measures what this stage makes",
    ),
    "pipeline/c2s_pipeline/mask_views.py": ({"dense", "views"}, "and clusters what these hold"),
    "c2s/bench/cluster.py": ({"masks"}, "measures the clustering of this stage"),
    "c2s/bench/codecs.py": ({"dense"}, "measures how the values of this stage are compressed"),
    "c2s/online.py": ({"views"}, "hands on views that the loader has cut for the teacher"),
    "c2s/demo/gallery.py": ({"masks"}, "draws the pseudo masks"),
    "c2s/demo/picture.py": ({"masks"}, "draws the pseudo masks"),
    "c2s/shapes/defaults.py": ({"masks", "segments"}, "a recipe: settings for the Shapes world"),
    "c2s/gpu/agreement.py": (
        {"dense", "masks", "regions"},
        "compares what the default stages compute on two devices",
    ),
    "c2s/gpu/builds.py": (
        {"global_cls/cls", "masks/grid"},
        "compares what the default stages compute on two devices",
    ),
    "c2s/gpu/speed.py": (
        {"dense", "images", "masks", "regions", "text"},
        "says where the time of a build goes, stage by stage",
    ),
    "c2s/shapes/train_teacher.py": ({"regions"}, "a stage of a training"),
    "c2s/students/prompting.py": ({"tower"}, "where the training of a student begins"),
    "c2s/demo/comparison.py": ({"tower"}, "tells the methods whose student is CLIP's image tower"),
    "c2s/demo/teacher_report.py": ({"words"}, "a key of JSON"),
    "c2s/gpu/inputs.py": ({"images/train2017"}, OF_DATA_SETS),
    "c2s/evaluation/classifier.py": ({"text"}, "a buffer of a module"),
    "pipeline/c2s_pipeline/teachers/registry.py": (
        {"dense", "instances"},
        "methods of teachers, and of classes",
    ),
}
"""By file, the names that are right there, and why."""


def production() -> Iterator[str]:
    for folder in ("c2s", "cache/c2s_cache", "pipeline/c2s_pipeline"):
        yield from (f.relative_to(ROOT).as_posix() for f in (ROOT / folder).rglob("*.py"))


def named(source: str) -> set[str]:
    """Strings that are the name of a stage, the path of an array or the key of a setting of one; stages imported."""
    tree, found = ast.parse(source), set[str]()
    modules = {stage.__module__: name for name, stage in STAGES.items()}
    words = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in modules:
            found.add(modules[node.module])
        text = node.value if isinstance(node, ast.Constant) and id(node) not in words else None
        if isinstance(text, str) and names_one(text):
            found.add(text)
    return found


def names_one(text: str) -> bool:
    name, mark, rest = re.fullmatch(r"(\w*)([/.]?)(.*)", text, re.DOTALL).groups()
    if name not in STAGES:
        return False
    if mark == ".":
        return rest.partition("=")[0].split(".")[0] in STAGES[name].Settings.model_fields
    if mark == "/":
        return re.fullmatch(r"[a-z]\w+", rest) is not None
    return not rest and name not in EVERYDAY


def free(file: str) -> bool:
    return any(Path(file).match(f"{folder}*") for folder in FREE) or file.startswith(
        "c2s/datasets/"
    )


FOUND = {file: names for file in production() if (names := named((ROOT / file).read_text()))}


def test_a_name_is_found_however_it_is_written() -> None:
    for code in (
        'cache.column("masks/grid")',
        'request.stage("masks")',
        '["--set", "masks.threshold"]',
        "from c2s_pipeline.stages.masks import GRID",
    ):
        assert named(code), code
    for code in ('"""masks"""', 'x = "masks are made"', 'x = "images"', 'x = f"{n} masks"'):
        assert not named(code), code
    assert named('x = "images/data"') == {"images/data"}


@pytest.mark.parametrize("file", [file for file in FOUND if not free(file)])
def test_a_stage_is_named_where_it_belongs(file: str) -> None:
    names, _ = ALLOWED.get(file, (set(), ""))
    strange = FOUND[file] - names
    assert not strange, f"{file} names {strange}; ask the stage instead, or say here why it must"


@pytest.mark.parametrize("file", ALLOWED)
def test_what_is_allowed_is_there(file: str) -> None:
    assert FOUND.get(file) == ALLOWED[file][0]


def test_the_format_names_no_stage() -> None:
    assert not [file for file in FOUND if file.startswith("cache/")]
