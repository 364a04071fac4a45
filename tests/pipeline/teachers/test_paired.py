"""Masks by one teacher, embeddings and words by another."""

from __future__ import annotations

import pickle

import numpy as np
import plain_teacher
import pytest
import torch
from small_builds import made
from typer.testing import CliRunner

from c2s.cli.app import app
from c2s.datasets import load_dataset
from c2s.online import OnlineTeacher
from c2s_cache import C2SError, ConfigError, Manifest, open_cache
from c2s_cache.integrity import verify
from c2s_cache.manifest import TeacherInfo
from c2s_pipeline.build.builder import build
from c2s_pipeline.build.request import make_manifest, recorded_request
from c2s_pipeline.build.rows import new_rows
from c2s_pipeline.build.verify import spot_check
from c2s_pipeline.teachers.base import TeacherSpec
from c2s_pipeline.teachers.recorded import load_recorded, load_recorded_text, recorded_spec
from c2s_pipeline.teachers.registry import load_teacher, load_text_encoder

MUTE = "python:plain_teacher:Mute"
"""A teacher of images alone, with patches of 4 pixels."""


def noise(side, count=2):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def pair(tiny_teacher):
    masks = TeacherSpec("python:plain_teacher:Colours", dense_size=24)
    return load_teacher(TeacherSpec(tiny_teacher, mask_teacher=masks))


def test_each_does_its_part(pair, tiny_teacher):
    own = load_teacher(TeacherSpec(tiny_teacher))
    masks = load_teacher(TeacherSpec("python:plain_teacher:Colours", dense_size=24))
    assert torch.equal(pair.embed_images(noise(32)), own.embed_images(noise(32)))
    assert torch.equal(pair.dense(noise(24))[1], masks.dense(noise(24))[1])
    assert torch.equal(pair.text.embed_text(["sky"]), own.text.embed_text(["sky"]))
    info = pair.info()
    assert (info.dim, info.image_size, info.mean) == (own.dim, 32, own.mean)
    assert (info.dense_dim, info.dense_size, info.grid) == (plain_teacher.DIM, 24, (6, 6))
    assert info.tower_digest == own.info().tower_digest
    assert info.digest not in (own.info().digest, masks.info().digest)
    assert info.dense_tower == masks.info()
    assert info.looks == ((32, "bicubic"), (24, "bicubic"))
    assert not info.one_pass
    assert TeacherInfo.model_validate_json(info.model_dump_json()) == info


def test_another_process_loads_the_same(pair):
    again = load_teacher(pickle.loads(pickle.dumps(pair.spec)))
    assert again.info() == pair.info()
    assert again.spec == pair.spec


def test_words_ask_for_no_mask_teacher(tiny_teacher):
    spec = TeacherSpec(tiny_teacher, mask_teacher=TeacherSpec("python:nowhere:Nothing"))
    found = load_text_encoder(spec)
    assert found.digest == load_text_encoder(TeacherSpec(tiny_teacher)).digest


def manifest(tiny_teacher, **masks):
    source = load_dataset("shapes").split("dev")
    request = made(teacher=tiny_teacher, view_size=32, limit=4, **masks)
    info = load_teacher(request.spec).info()
    return make_manifest(source, request, new_rows(source, request).parts, info)


def of_teacher(manifest, **facts):
    """The same of another teacher."""
    teacher = manifest.teacher.model_copy(update=facts).model_dump()
    return Manifest.model_validate(manifest.model_dump() | {"teacher": teacher})


def changed(a, b):
    return {name for name, value in a.fingerprints.items() if b.fingerprints[name] != value}


def test_fingerprints_are_exact(tiny_teacher):
    """What the mask teacher decides changes with it, and nothing else: the global CLS stays."""
    alone, masked = manifest(tiny_teacher), manifest(tiny_teacher, mask_teacher=MUTE)
    assert changed(alone, masked) == {"dense", "masks", "regions"}
    larger = manifest(tiny_teacher, mask_teacher=MUTE, dense_size=32)
    assert changed(masked, larger) == {"dense", "masks", "regions"}
    filtered = masked.teacher.mask_teacher.model_copy(update={"interpolation": "bilinear"})
    again = of_teacher(masked, mask_teacher=filtered)
    assert changed(masked, again) == {"dense", "masks", "regions"}
    again = of_teacher(masked, tower_digest="0", text_digest="0")
    assert changed(masked, again) == {"global_cls", "regions", "text"}


def test_weights_of_no_mask_teacher_are_refused():
    with pytest.raises(ValueError, match="mask_pretrained has no effect without mask_teacher"):
        made(mask_pretrained="random")


@pytest.mark.slow
def test_a_cache_of_two_teachers(tmp_path, scheduler, tiny_teacher):
    """Built by workers, verified, derived from and asked in the loop."""
    settings = {"windows": (2, 3), "iterations": 2}
    request = made(
        teacher=tiny_teacher, mask_teacher=MUTE, view_size=32, limit=4, block_rows=2, masks=settings
    )
    source, out = load_dataset("shapes").split("dev"), tmp_path / "two.zarr"
    build(source, request, out, scheduler=scheduler)
    cache = open_cache(out)
    assert verify(cache) == []
    info = cache.manifest.teacher
    assert info.mask_teacher.name == MUTE
    assert cache.column("dense/tokens").shape == (4, 1, 4, 4, plain_teacher.DIM)
    with pytest.raises(C2SError, match="not imported because a file says so"):
        recorded_spec(cache.manifest, tiny_teacher)
    spec = recorded_spec(cache.manifest, tiny_teacher, None, MUTE)
    teacher = load_recorded(cache.manifest, spec)
    assert spot_check(cache, teacher, [0, 3]).findings == ()
    assert load_recorded_text(info, tiny_teacher).digest == info.text_digest
    online = OnlineTeacher(cache.manifest, teacher, ["global_cls/cls", "masks/grid"])
    assert online.looks == ((32, "bicubic"), (16, "bicubic"))
    said = CliRunner().invoke(
        app, ["cache", "verify", str(out), "--teacher", tiny_teacher, "--mask-teacher", MUTE]
    )
    assert said.exit_code == 0, said.output


def test_a_recorded_request_names_both(tiny_teacher):
    masked = manifest(tiny_teacher, mask_teacher=tiny_teacher, dense_features="value")
    request = recorded_request(masked)
    assert request.mask_teacher == masked.teacher.mask_teacher.name
    assert request.dense_features == "value"
    with pytest.raises(ConfigError, match="has no mask teacher, so --mask-teacher x cannot act"):
        recorded_spec(manifest(tiny_teacher), None, None, "x")
