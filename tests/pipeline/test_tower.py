"""The stage `tower`: what it holds, what it costs an existing cache, and whose tower it refuses."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from c2s.datasets import load_dataset
from c2s.shapes.defaults import TEACHER
from c2s.testing import shapes
from c2s_cache import Block, Cache, ConfigError
from c2s_cache.integrity import verify
from c2s_cache.tower import decode_tower, encode_tower
from c2s_pipeline.build.builder import build
from c2s_pipeline.build.request import build_request
from c2s_pipeline.build.verify import content
from c2s_pipeline.stages.tower import END, WEIGHTS, Tower
from c2s_pipeline.teachers.base import TeacherSpec
from c2s_pipeline.teachers.registry import load_teacher
from c2s_pipeline.teachers.transformers_towers import TransformersCLIP
from c2s_pipeline.teachers.vit_weights import vit_weights

BASE = ("views", "labels", "text")


def request(*stages, **values):
    settings = {"teacher": TEACHER, "view_size": 64, "limit": 6, "block_rows": 4, "batch_size": 4}
    return build_request(**settings, stages=stages, **values)


@pytest.fixture(scope="module")
def cache():
    return shapes.shapes_cache(("images", "views", "tower"))


def test_it_holds_the_teachers_own_weights(cache):
    info, tensors = decode_tower(cache.once(WEIGHTS))
    visual = shapes.teacher().tower.visual
    state = visual.state_dict()
    assert tensors.keys() == state.keys()
    assert all(np.array_equal(tensors[k], v.numpy()) for k, v in state.items())
    assert info.digest == cache.manifest.teacher.tower_digest
    facts = (info.width, info.layers, info.heads, info.patch, info.image_size, info.dim, info.pool)
    assert facts == (128, 6, 4, 8, 64, 128, "avg")
    assert int(cache.once(END)[0]) == len(cache.once(WEIGHTS))


def test_it_is_not_built_unless_it_is_asked_for():
    assert "tower" not in build_request().asked()


def damaged(cache, change):
    info, tensors = decode_tower(cache.once(WEIGHTS))
    info, tensors = change(info, {k: v.copy() for k, v in tensors.items()})
    arrays = {WEIGHTS: encode_tower(info, tensors)}
    return [finding.what for finding in Tower().inspect(Block(cache.manifest, 0, arrays))]


def test_another_teachers_tower_is_found(cache):
    found = damaged(cache, lambda i, t: (i.model_copy(update={"digest": "0" * 64}), t))
    assert found == ["the tower is not that of the cache's teacher"]


def test_a_weight_that_is_not_finite_is_found(cache):
    def change(info, tensors):
        tensors["proj"][0, 0] = np.nan
        return info, tensors

    assert damaged(cache, change) == ["the tensor proj is not finite"]


@pytest.mark.slow
def test_a_tower_that_is_no_vision_transformer_is_refused():
    teacher = load_teacher(TeacherSpec("RN50", "random"))
    with pytest.raises(ConfigError) as error:
        vit_weights(teacher, teacher.info())
    assert "teacher RN50 has an image tower that is no plain CLIP vision transformer" in str(
        error.value
    )


@pytest.mark.parametrize("part", ["final_ln_after_pool", "ls_1", "another activation"])
def test_a_vision_transformer_with_more_parts_is_refused(part, monkeypatch):
    teacher = load_teacher(TeacherSpec(TEACHER))
    visual = teacher.tower.visual
    if part == "ls_1":
        visual.transformer.resblocks[0].ls_1 = torch.nn.Linear(2, 2)
    elif part == "another activation":
        visual.transformer.resblocks[0].mlp.gelu = torch.nn.SiLU()
    else:
        visual.final_ln_after_pool = True
    with pytest.raises(ConfigError, match="no plain CLIP vision transformer"):
        vit_weights(teacher, shapes.teacher().info())


def test_a_model_of_transformers_gives_the_same_tower():
    """Its tensors under open_clip's names compute what it computes."""
    from c2s.students.prompted_clip import PromptedCLIP

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    vision = {**sizes, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}
    config = CLIPConfig(vision_config=vision, projection_dim=16)
    model = CLIPModel(config).eval()
    tower = TransformersCLIP(model, "small")
    told = shapes.teacher().info().model_copy(update={"dim": 16})
    spec = SimpleNamespace(name="small")
    info, tensors = vit_weights(SimpleNamespace(tower=tower, spec=spec), told)
    assert (info.activation, info.grid, info.pool) == ("quick_gelu", 4, "tok")
    plain = {"prompts": 0, "bridge": 0, "descriptor": "global", "fuse": [], "heads": 4}
    student = PromptedCLIP(16, {**plain, "tower": info}).eval()
    student.load_tower(tensors)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        want = model.get_image_features(images).pooler_output
        found = student.encode(images).cls
    torch.testing.assert_close(found, torch.nn.functional.normalize(want, dim=1))


@pytest.mark.slow
def test_an_existing_cache_gains_the_tower_alone(tmp_path):
    """And nothing else is computed; the whole is what a build from scratch gives, and verifies."""
    source, out = load_dataset("shapes").split("train"), tmp_path / "grown.zarr"
    build(source, request(*BASE), out)
    report = build(source, request(*BASE, "tower"), out, update=True)
    assert report.computed == {"tower": 1}
    assert report.passes == 0
    build(source, request(*BASE, "tower"), tmp_path / "anew.zarr")
    grown, anew = Cache(out), Cache(tmp_path / "anew.zarr")
    assert grown.manifest == anew.manifest
    assert np.array_equal(grown.once(WEIGHTS), anew.once(WEIGHTS))
    assert verify(grown, content(grown)) == []
    again = build(source, request(*BASE, "tower"), out)
    assert again.computed == {}
