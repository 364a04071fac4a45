"""A teacher is found by its name, whoever wrote its family."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import plain_teacher
import pytest
from small_builds import made

from c2s.datasets import load_dataset
from c2s_cache import C2SError, ConfigError, open_cache
from c2s_pipeline.build.builder import build
from c2s_pipeline.teachers import registry
from c2s_pipeline.teachers.base import TeacherSpec
from c2s_pipeline.teachers.recorded import load_recorded_text, recorded_spec
from c2s_pipeline.teachers.registry import load_teacher, load_text_encoder

OWN = "python:plain_teacher:Colours"


def installed(monkeypatch, **references):
    """Have packages installed whose entry points are these."""

    def entry_points(group, name):
        assert group == "c2s.teachers"
        return [EntryPoint(n, r, group) for n, r in references.items() if n == name]

    monkeypatch.setattr(registry, "entry_points", entry_points)


def test_a_class_is_imported_by_its_name():
    teacher = load_teacher(TeacherSpec(OWN, "anything"))
    assert isinstance(teacher, plain_teacher.Colours)
    assert teacher.spec.pretrained == "anything"
    assert isinstance(load_text_encoder(TeacherSpec(OWN)), plain_teacher.Letters)


@pytest.mark.parametrize("name", ["colours", "colours:bright"])
def test_a_package_brings_a_teacher_by_its_entry_point(name, monkeypatch):
    installed(monkeypatch, colours="plain_teacher:Colours")
    teacher = load_teacher(TeacherSpec(name))
    assert isinstance(teacher, plain_teacher.Colours)
    assert teacher.spec.name == name
    with pytest.raises(ConfigError, match="unknown teacher 'colour'"):
        load_teacher(TeacherSpec("colour"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("python:plain_teacher", "write python:MODULE:CLASS"),
        ("python:.x:F", "write python:MODULE:CLASS"),
        ("python:nowhere:F", r"cannot be imported .No module named 'nowhere'"),
        ("python:plain_teacher:Nothing", r"cannot be imported .*no attribute 'Nothing'"),
        ("python:plain_teacher:NOT_A_CLASS", "is no class of teachers"),
        ("python:plain_teacher:Letters", "it has no info, embed_images, dense"),
    ],
)
def test_what_is_no_teacher_is_one_sentence(name, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_teacher(TeacherSpec(name))
    assert "\n" not in str(caught.value)


def test_a_teacher_without_words_says_so():
    with pytest.raises(ConfigError, match="Mute has no text tower"):
        load_text_encoder(TeacherSpec("python:plain_teacher:Mute"))


@pytest.mark.slow
def test_a_cache_is_built_by_a_class_of_ones_own(tmp_path, scheduler):
    """Its name is recorded, and it is not imported again because a file says so."""
    masks = {"windows": (2, 3), "iterations": 2}
    asked = made(teacher=OWN, view_size=32, limit=2, block_rows=2, masks=masks)
    out = tmp_path / "own.zarr"
    build(load_dataset("shapes").split("dev"), asked, out, scheduler=scheduler)
    manifest = open_cache(out).manifest
    assert (manifest.teacher.name, manifest.teacher.dim) == (OWN, plain_teacher.DIM)
    with pytest.raises(C2SError, match="not imported because a file says so"):
        recorded_spec(manifest)
    with pytest.raises(C2SError, match="not imported because a file says so"):
        load_recorded_text(manifest.teacher)
    assert recorded_spec(manifest, OWN).name == OWN
    assert load_recorded_text(manifest.teacher, OWN).digest == manifest.teacher.text_digest
